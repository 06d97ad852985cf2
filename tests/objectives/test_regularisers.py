"""Every estimate at every place, by enumeration of all episodes of a small world, against the exact functionals.

The world has three words and episodes of one or two of them: the word 2 ends an episode. Its policy is a table of
logits, one row for the first word and one for the second after each of the words 0 and 1. A third slot is never used,
and what is not used is NaN. Expected gradients are sums over the seven episodes, not samples.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives import regularisers
from rlhf_jax.objectives.divergences import (
    ALL_DIVERGENCES,
    Alpha,
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

# f once more, by hand. The slope of the total variation is sign(u - 1) / 2.
F = {
    ReverseKL(): lambda u: u * jnp.log(u),
    ForwardKL(): lambda u: -jnp.log(u),
    ChiSquared(): lambda u: (u - 1) ** 2,
    ChiPO(): lambda u: (u - 1) ** 2 / 2 + u * jnp.log(u),
    TotalVariation(): lambda u: jnp.abs(u - 1) / 2,
}
every_divergence = pytest.mark.parametrize("divergence", F, ids=repr)
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


# The exact side: laws, probabilities of episodes, functionals and their gradients.


def logs_of_words(logits):
    """[7, 3] log-probabilities of the words of each episode, NaN where there is none."""
    logp = jax.nn.log_softmax(logits)
    return jnp.where(MASK, logp[STATES, WORDS], jnp.nan)


def probabilities(logits):
    return jnp.exp(jnp.nansum(logs_of_words(logits), axis=1))


def visits(logits):
    """How often an episode comes through each of the three states."""
    return jnp.append(jnp.ones(1), jax.nn.softmax(logits[0])[:2])


def functional(level, logits, g, frozen):
    """sum_s visits(s) sum_v g(pi, ref), visits being those of ``frozen`` logits, or sum_y g(pi(y), ref(y))."""
    if level == "sequence":
        return jnp.sum(g(probabilities(logits), probabilities(REF)))
    inner = jnp.sum(g(jax.nn.softmax(logits), jax.nn.softmax(REF)), axis=1)
    return jnp.sum(visits(frozen) * inner)


def by_slope(slope):
    """The term of a functional E_ref h(u), known by h' alone: right in its gradient."""
    return lambda pi, ref: jax.lax.stop_gradient(slope(pi / ref)) * pi


@functools.cache
def gradients(divergence, level, off_policy):
    """The gradients at PI that a bias may name. Off policy the states are those of OLD, if they are held fixed."""
    f = F[divergence]
    frozen = OLD if off_policy else PI
    at_one = {"reverse_kl": 1.0, "forward_kl": -1.0, "chi_po": 1.0}.get(divergence.name, 0.0)

    def slope(u):
        return jax.grad(lambda x: jnp.sum(f(x)))(u)

    def k2(u):
        return jnp.log(u) * (slope(u) - at_one) / 2

    def functionals(logits):
        terms = {
            "D": lambda pi, ref: ref * f(pi / ref),
            "paid k2": lambda pi, ref: pi * jax.lax.stop_gradient(k2(pi / ref)),  # score part, later states included
            "forward KL": lambda pi, ref: -ref * jnp.log(pi / ref),
            "half squared log": lambda pi, ref: ref * jnp.log(pi / ref) ** 2 / 2,
            # What is left of grad E k while the sampling is held fixed: h' = u dk/du.
            "pathwise k1": by_slope(lambda u: slope(u) - f(u) / u),
            "pathwise k3": by_slope(lambda u: slope(u) - f(u) / u - at_one / u),
        }
        whole = {name: functional(level, logits, g, logits) for name, g in terms.items()}
        own = {f"own {name}": functional(level, logits, g, frozen) for name, g in terms.items()}
        return whole | own

    with jax.enable_x64(True):
        return {name: np.asarray(gradient) for name, gradient in jax.jacrev(functionals)(jnp.asarray(PI)).items()}


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


def named_gradient(spec, off_policy=False):
    """The gradient that ``spec.bias()`` names."""
    found = gradients(spec.divergence, spec.level, off_policy)
    sentence = spec.bias()
    if sentence is None:
        return found["D"]
    assert (spec.level == "token" and spec.placement == "loss") == sentence.endswith(LATER)
    (gradient,) = [make(found) for words, make in NAMED.items() if words in sentence]
    return gradient


# The side of a learner: what the functions give, in a surrogate as policy gradients make it.


def to_go(paid):
    return jnp.cumsum(paid[::-1])[::-1]


def learner_gradients(
    specs, old=PI, *, reward=reward_penalty, correction=advantage_correction, loss=loss_penalty, to_go=to_go
):
    """E over episodes of ``old`` of grad [sum_t log pi_t (to-go_t + correction_t) + sum_t loss_t], at PI, by spec.

    Nothing is detached here: it is for the functions to do.
    """

    def surrogate(spec, logits):
        at_states = divergence_of_logits(spec.divergence, logits, jnp.asarray(REF))[STATES]
        exact = jnp.where(MASK, at_states, jnp.nan) if spec.estimator == "exact" else None

        def episode(logp, ref_logp, old_logp, mask, exact):
            paid = reward(spec, log_ratio=logp - ref_logp, mask=mask, exact=exact)
            charged = to_go(paid) + correction(spec, log_ratio=logp - ref_logp, mask=mask)
            added = loss(spec, logprobs=logp, ref_logprobs=ref_logp, old_logprobs=old_logp, mask=mask, exact=exact)
            return jnp.sum(jnp.where(mask, logp, 0.0) * charged + added)

        episodes = jax.vmap(episode)(logs_of_words(logits), logs_of_words(REF), logs_of_words(old), MASK, exact)
        return probabilities(old) @ episodes

    return np.asarray(jax.jacrev(lambda x: jnp.stack([surrogate(spec, x) for spec in specs]))(jnp.asarray(PI)))


def distance(spec, ours):
    """How far a gradient is from the exact one, relative to that."""
    exact = gradients(spec.divergence, spec.level, False)["D"]
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
        named = named_gradient(spec, off_policy=True)
        np.testing.assert_allclose(ours, named, atol=1e-12, rtol=1e-10, err_msg=repr(spec))
        assert (spec.bias() is None) == (spec.level == "sequence")
    assert distance(plain, without) > 0.1
