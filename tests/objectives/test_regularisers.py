"""Every estimate at every place, by enumeration of all episodes of a small world, against the exact functionals.

The world has three words and episodes of one or two of them: the word 2 ends an episode. Its policy is a table of
logits, one row for the first word and one for the second after each of the words 0 and 1. A third slot is never used,
and what is not used is NaN. Expected gradients are sums over the seven episodes, not samples.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from rlhf_jax.objectives.advantages import token_rewards
from rlhf_jax.objectives.divergences import (
    ALL_DIVERGENCES,
    ChiPO,
    ChiSquared,
    ForwardKL,
    ReverseKL,
    TotalVariation,
)
from rlhf_jax.objectives.exact_divergence import divergence_of_logits
from rlhf_jax.objectives.regularisers import (
    LATER,
    Regulariser,
    advantage_correction,
    contradiction,
    k1,
    k2,
    k3,
    loss_penalty,
    reward_penalty,
)

EPISODES = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2,)]
SLOTS = 3
MASK = np.array([[t < len(words) for t in range(SLOTS)] for words in EPISODES])
WORDS = np.array([[*words, 0, 0][:SLOTS] for words in EPISODES])
STATES = np.array([[0, 1 + words[0] if len(words) > 1 else 0, 0] for words in EPISODES])
PI, REF, OLD = np.random.default_rng(1).normal(size=(3, 3, 3)) * 0.8

# f, f' and f'(1) once more, by hand.
F = {
    ReverseKL(): (lambda u: u * np.log(u), lambda u: np.log(u) + 1, 1.0),
    ForwardKL(): (lambda u: -np.log(u), lambda u: -1 / u, -1.0),
    ChiSquared(): (lambda u: (u - 1) ** 2, lambda u: 2 * (u - 1), 0.0),
    ChiPO(): (lambda u: (u - 1) ** 2 / 2 + u * np.log(u), lambda u: u + np.log(u), 1.0),
    TotalVariation(): (lambda u: np.abs(u - 1) / 2, lambda u: np.sign(u - 1) / 2, 0.0),
}
# f'(1) = 1, -1, 1 and 0; each is 27 gradients, so not the whole family.
every_divergence = pytest.mark.parametrize(
    "divergence", [ReverseKL(), ForwardKL(), ChiPO(), TotalVariation()], ids=repr
)
CHOICES = [
    choice
    for choice in itertools.product(
        ("k1", "k2", "k3", "exact"), ("reward", "loss", "both"), ("token", "sequence"), (False, True)
    )
    if contradiction(*choice) is None
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


# The exact side, in NumPy: what a functional's gradient is, from its derivative by the policy.


def gradient(level, slope, value=None, frozen=PI):
    """d/dlogits at PI of E_ref h(pi / ref), h' = ``slope``: of the laws at each state, or of whole episodes.

    At states: those of the policy itself if the ``value`` h is given, with the effect of a word on the next state, else
    as often as with the ``frozen`` logits.
    """
    laws, ref = softmax(PI, axis=1), softmax(REF, axis=1)
    found = np.zeros((3, 3))
    if level == "sequence":
        weights = likelihoods(laws) * slope(likelihoods(laws) / likelihoods(ref))
        for weight, words in zip(weights, EPISODES, strict=True):
            for state, word in zip((0, 1 + words[0]), words, strict=False):
                found[state] += weight * (np.eye(3)[word] - laws[state])
        return found
    visits = np.append(1.0, softmax(PI if value else frozen, axis=1)[0, :2])
    charged = slope(laws / ref)
    if value:
        charged[0, :2] += np.sum(ref * value(laws / ref), axis=1)[1:]
    return visits[:, None] * laws * (charged - np.sum(laws * charged, axis=1, keepdims=True))


def likelihoods(laws):
    return np.array([math.prod(laws[s, w] for s, w in zip((0, 1 + y[0]), y, strict=False)) for y in EPISODES])


def gradients(divergence, level, frozen=PI):
    """The gradients at PI that a bias may name, by name."""
    f, slope, at_one = F[divergence]

    def half_pull(u):  # k2
        return np.log(u) * (slope(u) - at_one) / 2

    own = {
        "D": slope,
        "forward KL": lambda u: -1 / u,
        "half squared log": lambda u: np.log(u) / u,
        # What is left of grad E k while the sampling is held fixed: h' = u dk/du.
        "pathwise k1": lambda u: slope(u) - f(u) / u,
        "pathwise k3": lambda u: slope(u) - f(u) / u - at_one / u,
    }
    return {f"own {name}": gradient(level, h, frozen=frozen) for name, h in own.items()} | {
        "D": gradient(level, slope, f),
        "paid k2": gradient(level, half_pull, lambda u: u * half_pull(u)),  # the score part, later states included
    }


NAMED = {
    "k2 in the reward pays a price": lambda g: g["paid k2"],
    "k2 in reward and loss pays a price": lambda g: g["paid k2"] + g["own D"],
    "of the reverse KL minus that of the forward KL": lambda g: g["D"] - g["own forward KL"],
    "exact in the reward leaves out the derivative": lambda g: g["D"] - g["own D"],
    "k3 in the reward leaves out the derivative": lambda g: g["D"] - g["own pathwise k3"],
    "k1 in the loss has expected gradient zero": lambda g: np.zeros((3, 3)),
    "k3 in the loss has the gradient of the forward KL": lambda g: g["own forward KL"],
    "has the gradient of E_ref (log u)^2 / 2": lambda g: g["own half squared log"],
    "k1 in the loss leaves out the derivative": lambda g: g["own pathwise k1"],
    "k3 in the loss leaves out the derivative": lambda g: g["own pathwise k3"],
    f"in the loss {LATER}": lambda g: g["own D"],
}


def named_gradient(spec, frozen=PI):
    """The gradient that ``spec.bias()`` names."""
    found = gradients(spec.divergence, spec.level, frozen)
    sentence = spec.bias()
    if sentence is None:
        return found["D"]
    drops_later = spec.level == "token" and spec.placement == "loss" and not spec.useless()
    assert sentence.endswith(LATER) == drops_later
    (named,) = [make(found) for words, make in NAMED.items() if words in sentence]
    return named


def logs_of_words(logits):
    """[7, 3] log-probabilities of the words of each episode, NaN where there is none."""
    return jnp.where(MASK, jax.nn.log_softmax(logits)[STATES, WORDS], jnp.nan)


def test_the_exact_side_is_the_gradient_of_the_exact_functionals():
    laws, ref = jax.nn.softmax(PI), jax.nn.softmax(REF)

    def by_states(logits):
        laws = jax.nn.softmax(logits)
        prices = jnp.sum(laws * jnp.log(laws / ref), axis=1)
        return prices[0] + laws[0, :2] @ prices[1:]

    def by_episodes(logits):
        likely = jnp.exp(jnp.nansum(logs_of_words(logits), axis=1))
        return jnp.sum(likely**2 / jnp.exp(jnp.nansum(logs_of_words(REF), axis=1)))  # chi-squared + 1

    assert float(jnp.sum(jnp.exp(jnp.nansum(logs_of_words(PI), axis=1)))) == pytest.approx(1.0)
    np.testing.assert_allclose(gradients(ReverseKL(), "token")["D"], jax.grad(by_states)(jnp.asarray(PI)), rtol=1e-12)
    np.testing.assert_allclose(
        gradients(ChiSquared(), "sequence")["D"], jax.grad(by_episodes)(jnp.asarray(PI)), rtol=1e-12
    )
    np.testing.assert_allclose(likelihoods(laws), jnp.exp(jnp.nansum(logs_of_words(PI), axis=1)), rtol=1e-12)
    # Of the reverse KL both levels are one functional.
    np.testing.assert_allclose(
        gradients(ReverseKL(), "token")["D"], gradients(ReverseKL(), "sequence")["D"], rtol=1e-12
    )


# The side of a learner: what the functions give, in a surrogate as policy gradients make it.


def to_go(paid):
    return jnp.cumsum(paid[::-1])[::-1]


def learner_gradients(
    specs, old=PI, *, reward=reward_penalty, correction=advantage_correction, loss=loss_penalty, to_go=to_go
):
    """E over episodes of ``old`` of grad [sum_t log pi_t (to-go_t + correction_t) + sum_t loss_t], at PI, by spec.

    The specs share their divergence. Nothing is detached here: it is for the functions to do.
    """

    ref_logs, old_logs, weights = logs_of_words(REF), logs_of_words(old), likelihoods(softmax(old, axis=1))

    def surrogates(logits):
        logs = logs_of_words(logits)
        at_states = divergence_of_logits(specs[0].divergence, logits, jnp.asarray(REF))[STATES]

        def episode(spec, logp, ref_logp, old_logp, mask, exact):
            exact = jnp.where(mask, exact, jnp.nan) if spec.estimator == "exact" else None
            paid = reward(spec, log_ratio=logp - ref_logp, mask=mask, exact=exact)
            charged = to_go(paid) + correction(spec, log_ratio=logp - ref_logp, mask=mask)
            added = loss(spec, logprobs=logp, ref_logprobs=ref_logp, old_logprobs=old_logp, mask=mask, exact=exact)
            return jnp.sum(jnp.where(mask, logp, 0.0) * charged + added)

        def episodes(*parts):
            return jnp.stack([episode(spec, *parts) for spec in specs])

        return weights @ jax.vmap(episodes)(logs, ref_logs, old_logs, MASK, at_states)

    return np.asarray(jax.jacrev(surrogates)(jnp.asarray(PI)))


def distance(spec, ours):
    """How far a gradient is from the exact one, relative to that."""
    exact = gradients(spec.divergence, spec.level)["D"]
    return np.linalg.norm(ours - exact) / np.linalg.norm(exact)


@every_divergence
def test_the_expected_gradient_is_what_the_bias_says(divergence):
    specs = [Regulariser(divergence, *choice) for choice in CHOICES]
    for spec, ours in zip(specs, learner_gradients(specs), strict=True):
        np.testing.assert_allclose(ours, named_gradient(spec), atol=1e-12, rtol=1e-10, err_msg=repr(spec))
        assert (distance(spec, ours) < 1e-12) == (spec.bias() is None), spec
        if spec.bias():
            assert distance(spec, ours) > 0.01, spec
        assert (np.linalg.norm(ours) < 1e-12) == spec.useless(), spec


@every_divergence
def test_on_episodes_of_an_older_policy_importance_holds_what_it_claims(divergence):
    specs = [Regulariser(divergence, *choice) for choice in CHOICES if choice[3] or choice[:2] == ("exact", "loss")]
    plain = Regulariser(divergence, "k2", "loss", "sequence")
    *all_ours, without = learner_gradients([*specs, plain], OLD)
    for spec, ours in zip(specs, all_ours, strict=True):
        named = named_gradient(spec, OLD)
        np.testing.assert_allclose(ours, named, atol=1e-12, rtol=1e-10, err_msg=repr(spec))
        assert (spec.bias() is None) == (spec.level == "sequence")
    assert distance(plain, without) > 0.1


# Relative errors of the gradient of the reverse KL in this world, measured: what a wrong place or estimate costs.
AMOUNTS = {
    ("k1", "loss", "token", False): 1.0,
    ("k2", "loss", "token", False): 0.159,  # cross terms dropped
    ("exact", "loss", "token", False): 0.159,
    ("k3", "loss", "token", False): 0.268,
    ("k3", "loss", "sequence", False): 0.239,  # forward KL for reverse KL
    ("k2", "reward", "token", False): 0.875,
    ("k3", "reward", "token", False): 0.915,
    ("k2", "both", "sequence", False): 0.327,
    ("exact", "reward", "token", False): 0.860,
}


def test_the_stated_amounts():
    specs = [Regulariser(ReverseKL(), *choice) for choice in AMOUNTS]
    found = [distance(spec, ours) for spec, ours in zip(specs, learner_gradients(specs), strict=True)]
    np.testing.assert_allclose(found, list(AMOUNTS.values()), atol=5e-4)


def negative(function):
    return lambda spec, **parts: -function(spec, **parts)


def with_gradient(spec, *, log_ratio, mask, exact):
    """The reward of k1, by token, as if nobody had detached it."""
    return jnp.where(mask, k1(spec.divergence, jnp.where(mask, log_ratio, 0.0)), 0.0)


def shifted(paid):
    """Each word charged with what comes after it, its own price left out."""
    return jnp.append(to_go(paid)[1:], 0.0)


def no_correction(spec, *, log_ratio, mask):
    return jnp.zeros_like(log_ratio)


def plain_sequence(spec, *, log_ratio, mask, exact):
    """f(u) / u of the response in place of f'(u)."""
    whole = jax.lax.stop_gradient(k1(spec.divergence, jnp.sum(jnp.where(mask, log_ratio, 0.0))))
    return jnp.where(jnp.arange(SLOTS) == jnp.sum(mask) - 1, whole, 0.0)


def ratio_without_gradient(spec, **parts):
    """rho as a number: k2 has it so, and of k3 that is wrong."""
    rho = jnp.exp(jnp.sum(jnp.where(parts["mask"], parts["logprobs"] - parts["old_logprobs"], 0.0)))
    plain = dataclasses.replace(spec, importance=False)
    return jax.lax.stop_gradient(rho) * loss_penalty(plain, **parts)


WRONG = {
    "sign of the reward": (ReverseKL(), ("k1", "reward", "token"), {"reward": negative(reward_penalty)}),
    "sign of the reward, sequence": (ChiPO(), ("k1", "reward", "sequence"), {"reward": negative(reward_penalty)}),
    "sign of the loss": (ChiPO(), ("k2", "loss", "sequence"), {"loss": negative(loss_penalty)}),
    "sign of the loss beside a reward": (ChiPO(), ("exact", "both", "token"), {"loss": negative(loss_penalty)}),
    "sign of the correction": (ChiPO(), ("k1", "reward", "token"), {"correction": negative(advantage_correction)}),
    "reward not detached": (ReverseKL(), ("k1", "reward", "token"), {"reward": with_gradient}),
    "return shifted by one": (ReverseKL(), ("k1", "reward", "token"), {"to_go": shifted}),
    "return shifted by one, others": (ChiPO(), ("k3", "both", "token"), {"to_go": shifted}),
    "no correction": (ForwardKL(), ("k1", "reward", "token"), {"correction": no_correction}),
    "response paid f(u) / u": (ForwardKL(), ("k1", "reward", "sequence"), {"reward": plain_sequence}),
    "ratio without its gradient": (
        ReverseKL(),
        ("k3", "loss", "sequence", True),
        {"loss": ratio_without_gradient},
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_enumeration_rejects_a_wrong_learner(fault):
    divergence, choice, wrong = WRONG[fault]
    spec = Regulariser(divergence, *choice)
    assert spec.bias() is None
    assert distance(spec, learner_gradients([spec])[0]) < 1e-12
    assert distance(spec, learner_gradients([spec], **wrong)[0]) > 0.1


@every_divergence
def test_means_over_episodes(divergence):
    """k1, k3 and exact have the mean of the functional, k2 has not."""
    laws, ref = softmax(PI, axis=1), softmax(REF, axis=1)
    likely, f = likelihoods(laws), F[divergence][0]
    by_state = np.sum(ref * f(laws / ref), axis=1)
    exact = {
        "token": by_state[0] + laws[0, :2] @ by_state[1:],
        "sequence": np.sum(likelihoods(ref) * f(likely / likelihoods(ref))),
    }
    at_states = jnp.where(MASK, divergence_of_logits(divergence, jnp.asarray(PI), jnp.asarray(REF))[STATES], jnp.nan)
    log_ratios = logs_of_words(PI) - logs_of_words(REF)
    for choice in CHOICES:
        spec = Regulariser(divergence, *choice)
        if spec.placement != "both":
            continue
        paid = jax.vmap(lambda r, m, e, spec=spec: reward_penalty(spec, log_ratio=r, mask=m, exact=e))(
            log_ratios, MASK, at_states
        )
        same = math.isclose(float(likely @ jnp.sum(paid, axis=1)), exact[spec.level], rel_tol=1e-10)
        assert same == (spec.estimator != "k2"), spec
    if divergence == ReverseKL():
        assert exact["token"] == pytest.approx(exact["sequence"])


def test_mean_and_variance_of_the_estimates_of_the_reverse_kl():
    """Of a response, in this world: k3 has a ninth of the variance of k1, with the same mean."""
    likely = likelihoods(softmax(PI, axis=1))
    log_ratio = jnp.log(likely / likelihoods(softmax(REF, axis=1)))
    means = [float(likely @ k(ReverseKL(), log_ratio)) for k in (k1, k2, k3)]
    variances = [
        float(likely @ (k(ReverseKL(), log_ratio) - mean) ** 2) for k, mean in zip((k1, k2, k3), means, strict=True)
    ]
    np.testing.assert_allclose(means, [0.165828, 0.186225, 0.165828], atol=1e-6)
    np.testing.assert_allclose(variances, [0.34495, 0.03780, 0.03893], atol=1e-5)


LOG_RATIOS = np.linspace(-6.0, 6.0, 25)


def test_the_reverse_kl_by_the_known_formulas():
    l = jnp.asarray(LOG_RATIOS)  # noqa: E741
    np.testing.assert_allclose(k1(ReverseKL(), l), LOG_RATIOS)
    np.testing.assert_allclose(k2(ReverseKL(), l), LOG_RATIOS**2 / 2)
    np.testing.assert_allclose(k3(ReverseKL(), l), np.exp(-LOG_RATIOS) - 1 + LOG_RATIOS, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
def test_the_estimates_at_every_ratio(divergence):
    l = jnp.asarray(LOG_RATIOS)  # noqa: E741
    for estimate in (k2, k3):
        assert float(jnp.min(estimate(divergence, l))) >= -1e-15
        assert float(estimate(divergence, jnp.zeros(()))) == 0.0
    pull = divergence.slope_of_log(l) - divergence.slope_at_one
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda x: k2(divergence, x)))(l), pull, rtol=1e-12, atol=1e-14)
    with jax.enable_x64(False):
        far = jnp.array([-3000.0, -100.0, -60.0, 60.0, 100.0, 3000.0], jnp.float32)
        for estimate in (k1, k2, k3):
            values, slopes = jax.vmap(jax.value_and_grad(lambda x, k=estimate: k(divergence, x)))(far)
            assert values.dtype == jnp.float32
            assert np.all(np.isfinite(values))
            assert np.all(np.isfinite(slopes))


def test_the_default_pays_what_ppo_paid_bit_for_bit():
    rng = np.random.default_rng(3)
    logprobs, ref_logprobs = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)
    mask = jnp.array([True, True, True, False, False])
    paid = reward_penalty(Regulariser(), log_ratio=logprobs - ref_logprobs, mask=mask)
    beta = jnp.float32(0.07)
    theirs = token_rewards(
        score=jnp.float32(0.0), logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask, kl_coefficient=beta
    )
    np.testing.assert_array_equal(-beta * paid, theirs)
    assert not np.any(advantage_correction(Regulariser(), log_ratio=logprobs - ref_logprobs, mask=mask))
    assert not Regulariser().in_loss
    assert not Regulariser().corrects


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_what_is_masked_is_not_seen(choice):
    """NaN off the mask reaches neither values nor gradients; an episode without a token pays nothing."""
    spec = Regulariser(ChiPO(), *choice)

    def total(logprobs, other, mask):
        reward = reward_penalty(spec, log_ratio=logprobs - other, mask=mask, exact=logprobs)
        own = advantage_correction(spec, log_ratio=logprobs - other, mask=mask)
        loss = loss_penalty(spec, logprobs=logprobs, ref_logprobs=other, old_logprobs=other, mask=mask, exact=logprobs)
        return jnp.sum(jnp.stack([reward, own, loss])), jnp.stack([reward, own, loss])

    at, other = jnp.array([0.3, -0.2, jnp.nan]), jnp.array([0.1, 0.4, jnp.nan])
    (_, values), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(at, other, jnp.array([True, True, False]))
    assert np.all(np.isfinite(values))
    assert np.all(values[:, 2] == 0.0)
    assert np.all(np.isfinite(slopes[0]))
    assert not np.any(slopes[1])  # neither the reference nor the old policy is trained
    if spec.level == "sequence":
        assert not np.any(values[:, 0])
    if spec.placement == "reward":
        assert not np.any(slopes[0])
    _, nothing = total(at, other, jnp.zeros(3, bool))
    assert not np.any(nothing)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (("exact", "loss", "sequence", False), "no such sum"),
        (("exact", "loss", "token", True), "no sample for importance"),
        (("k1", "reward", "token", True), "importance corrects an estimate in the loss"),
        (("k3", "both", "sequence", True), "importance corrects an estimate in the loss"),
    ],
)
def test_a_choice_without_meaning_is_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        Regulariser(ReverseKL(), *choice)


def test_exact_without_a_divergence_is_refused():
    with pytest.raises(ValueError, match="needs the divergence"):
        reward_penalty(Regulariser(estimator="exact"), log_ratio=jnp.zeros(2), mask=jnp.ones(2, bool))
