"""Each loss against its published formula in NumPy, the identities between them, and the policies that they lead to."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rlhf_jax.objectives import preference
from rlhf_jax.objectives.choices import plackett_luce_loss
from rlhf_jax.objectives.divergences import DIVERGENCES, make_divergence
from rlhf_jax.objectives.implicit import chi_rewards, log_odds, log_ratios

LOGPROBS, REFERENCE = np.array([-3.0, -7.5, -4.0, -9.0]), np.array([-4.0, -6.0, -4.5, -7.0])
LENGTHS = np.array([3.0, 5.0, 2.0, 6.0])
RATIOS = LOGPROBS - REFERENCE
# 0 above 1 and 3; 2 above 3; 0 and 2 were not compared, 1 and 2 were judged equal.
EDGES = [(0, 1), (0, 3), (2, 3)]
BETTER = np.zeros((4, 4), bool)
BETTER[tuple(zip(*EDGES, strict=True))] = True


def sigma(x):
    return 1 / (1 + np.exp(-x))


def mean_over_edges(rewards, formula, margin=0.0):
    return np.mean([formula(rewards[i] - rewards[j] - margin) for i, j in EDGES])


TERMS = {
    "dpo": (preference.logistic, lambda g: -np.log(sigma(g))),
    "cdpo": (lambda g: preference.logistic(g, 0.1), lambda g: -0.9 * np.log(sigma(g)) - 0.1 * np.log(sigma(-g))),
    "rdpo": (
        lambda g: preference.robust(g, 0.1),
        lambda g: (-0.9 * np.log(sigma(g)) + 0.1 * np.log(sigma(-g))) / 0.8,
    ),
    "ipo": (lambda g: preference.squared(g, 0.25), lambda g: (g - 2.0) ** 2),
    "hinge": (preference.hinge, lambda g: max(0.0, 1.0 - g)),
    "chi_po": (lambda g: preference.clipped(g, 1.5), lambda g: -np.log(sigma(np.clip(g, -1.5, 1.5)))),
    "simpo": (lambda g: preference.logistic(g - 0.4), lambda g: -np.log(sigma(g - 0.4))),
}
every_term = pytest.mark.parametrize("name", TERMS)


@every_term
def test_a_list_is_the_mean_of_its_compared_pairs(name):
    term, formula = TERMS[name]
    with jax.enable_x64(True):
        loss = preference.mean_over_pairs(rewards=jnp.array(RATIOS), better=jnp.array(BETTER), term=term, margin=0.3)
    assert float(loss) == pytest.approx(mean_over_edges(RATIOS, formula, 0.3), rel=1e-12)


@every_term
def test_what_was_not_judged_may_be_anything(name):
    """Padding of a longer list: the same loss, and no gradient."""
    term = TERMS[name][0]
    rewards, better = jnp.array([*RATIOS, np.nan, np.inf]), jnp.zeros((6, 6), bool).at[:4, :4].set(BETTER)

    def loss(rewards, better):
        return preference.mean_over_pairs(rewards=rewards, better=better, term=term)

    value, gradient = jax.value_and_grad(loss)(rewards, better)
    plain, wanted = jax.value_and_grad(loss)(jnp.array(RATIOS), jnp.array(BETTER))
    assert value == plain
    np.testing.assert_array_equal(gradient, [*wanted, 0.0, 0.0])
    assert loss(rewards, jnp.zeros((6, 6), bool)) == 0.0


def test_ratios_and_what_they_are_worth():
    with jax.enable_x64(True):
        np.testing.assert_allclose(log_ratios(jnp.array(LOGPROBS), jnp.array(REFERENCE)), RATIOS)
        by_length = log_ratios(jnp.array(LOGPROBS), jnp.array(REFERENCE), jnp.array(LENGTHS))
        np.testing.assert_allclose(by_length, RATIOS / LENGTHS)
        np.testing.assert_allclose(chi_rewards(jnp.array(RATIOS)), np.exp(RATIOS) + RATIOS)
        p = np.exp(LOGPROBS / LENGTHS)
        np.testing.assert_allclose(log_odds(jnp.array(LOGPROBS / LENGTHS)), np.log(p / (1 - p)), rtol=1e-12)
        assert np.isfinite(log_odds(jnp.zeros(1)))


def test_a_ratio_beyond_float32_pulls_no_further():
    rewards, slope = jax.value_and_grad(lambda r: chi_rewards(r).sum())(jnp.array([200.0], jnp.float32))
    assert np.isfinite(rewards)
    assert slope == 1.0


def test_the_gradient_of_dpo_is_weighted_by_how_wrong_the_reward_is():
    """d/dl of -log σ(beta m) is -+ beta σ(-beta m), m = l_w - l_l. Rafailov et al. 2023, section 4."""
    beta, m = 0.3, 1.7
    gradient = jax.grad(
        lambda x: preference.mean_over_pairs(
            rewards=beta * x, better=jnp.array([[False, True], [False, False]]), term=preference.logistic
        )
    )(jnp.array([m, 0.0]))
    np.testing.assert_allclose(gradient, beta * sigma(-beta * m) * np.array([-1, 1]), rtol=1e-6)


def test_no_smoothing_is_dpo_and_flips_leave_the_robust_loss_unbiased():
    with jax.enable_x64(True):
        gaps, e = jnp.linspace(-3.0, 3.0, 7), 0.2
        np.testing.assert_array_equal(preference.logistic(gaps, 0.0), preference.logistic(gaps))
        np.testing.assert_allclose(preference.robust(gaps, 0.0), preference.logistic(gaps), rtol=1e-15)
        flipped = (1 - e) * preference.robust(gaps, e) + e * preference.robust(-gaps, e)
        np.testing.assert_allclose(flipped, preference.logistic(gaps), rtol=1e-14)
        best = gaps[np.argmin(preference.logistic(gaps, e))]  # the logit of 1 - e is 1.39
        assert best == 1.0


def test_a_choice_between_two_is_dpo():
    rewards, better = jnp.array([0.4, -0.3]), jnp.array([[False, False], [True, False]])
    pair = preference.mean_over_pairs(rewards=rewards, better=better, term=preference.logistic)
    assert float(plackett_luce_loss(rewards=rewards, better=better)) == pytest.approx(float(pair), rel=1e-6)


def test_verdicts_and_what_kto_makes_of_them():
    exists = jnp.array([True, True, True, True])
    none = jnp.full(4, jnp.nan)
    good, bad = preference.verdict_counts(jnp.array(BETTER), none, exists)
    np.testing.assert_array_equal(good, [2, 0, 1, 0])
    np.testing.assert_array_equal(bad, [0, 1, 0, 2])
    labels = jnp.array([1.0, 0.25, jnp.nan, 0.0])
    good, bad = preference.verdict_counts(jnp.zeros((4, 4), bool), labels, exists.at[3].set(False))
    np.testing.assert_array_equal(good, [1, 0.25, 0, 0])
    np.testing.assert_array_equal(bad, [0, 0.75, 0, 0])
    rewards = jnp.array([0.8, -0.2, jnp.nan, jnp.nan])

    def loss(rewards, z):
        return preference.kahneman_tversky_loss(
            rewards=rewards, baseline=z, good=good, bad=bad, desirable=1.2, undesirable=0.7
        )

    expected = 1.2 * (1 - sigma(0.8 - 0.1)) + 0.25 * 1.2 * (1 - sigma(-0.2 - 0.1)) + 0.75 * 0.7 * (1 - sigma(0.1 + 0.2))
    value, (of_rewards, of_baseline) = jax.value_and_grad(loss, (0, 1))(rewards, 0.1)
    assert float(value) == pytest.approx(expected / 2, rel=1e-6)
    assert of_baseline == 0.0
    slope = sigma(0.7) * sigma(-0.7)
    np.testing.assert_allclose(of_rewards[0], -1.2 * slope / 2, rtol=1e-5)
    np.testing.assert_array_equal(of_rewards[2:], 0.0)


def test_the_best_of_a_list_are_those_that_nothing_beats():
    np.testing.assert_array_equal(preference.unbeaten(jnp.array(BETTER)), [True, False, True, False])
    assert not preference.unbeaten(jnp.zeros((3, 3), bool)).any()


# --------------------------------------------------------- the policy that a loss leads to: a bandit of five arms

REWARDS = np.array([1.0, 0.6, 0.3, 0.0, -0.5])
REF = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
BETA = 0.5
PAIRS = [(i, j) for i in range(5) for j in range(5) if i != j]
MASKS = np.zeros((20, 5, 5), bool)
MASKS[(range(20), *zip(*PAIRS, strict=True))] = True
CHANCE = np.array([sigma(REWARDS[i] - REWARDS[j]) for i, j in PAIRS])  # of i being called better
# max E r - BETA D_f(pi || REF), by a root find on the multiplier, to 8 digits.
KL_BEST = np.array([0.32771116, 0.29450023, 0.24243773, 0.11087721, 0.02447367])
CHI_BEST = np.array([0.18316468, 0.26848037, 0.30555475, 0.18478396, 0.05801623])


def policy_of(loss_of, masks=MASKS, chance=CHANCE):
    """Minimise the expected loss over all judgements: ``loss_of(l, better)`` of one of them, l = log pi / REF."""
    with jax.enable_x64(True):
        masks, chance, reference = jnp.array(masks), jnp.array(chance), jnp.log(jnp.array(REF))

        def expected(theta):
            ratios = jax.nn.log_softmax(theta) - reference
            return jnp.sum(chance * jax.vmap(lambda better: loss_of(ratios, better))(masks))

        both = jax.jit(jax.value_and_grad(expected))
        found = scipy.optimize.minimize(
            lambda theta: tuple(np.asarray(part) for part in both(theta)),
            np.log(REF),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-16, "gtol": 1e-11, "maxiter": 3000, "maxcor": 20},
        )
        return np.asarray(jax.nn.softmax(found.x))


def pairs_of(rewards_of, term=preference.logistic):
    return lambda ratios, better: preference.mean_over_pairs(rewards=rewards_of(ratios), better=better, term=term)


def test_dpo_reaches_the_tilted_policy():
    np.testing.assert_allclose(KL_BEST, (tilt := REF * np.exp(REWARDS / BETA)) / tilt.sum(), atol=1e-8)
    np.testing.assert_allclose(policy_of(pairs_of(lambda x: BETA * x)), KL_BEST, atol=1e-6)


BEST = {  # the same for other D_f
    "reverse_kl": KL_BEST,
    "forward_kl": [0.4587833, 0.19646986, 0.18541778, 0.11271579, 0.04661327],
    "jensen_shannon": [0.74470482, 0.13120005, 0.0833394, 0.03386952, 0.00688621],
    "alpha": [0.39770017, 0.24612337, 0.20783298, 0.11089755, 0.03744592],
    "chi_po": CHI_BEST,
    "hellinger": [0.70325981, 0.14434858, 0.09499563, 0.04424352, 0.01315245],
}


@pytest.mark.parametrize("name", BEST)
def test_dpo_under_a_divergence_reaches_the_best_policy_under_it(name):
    divergence = make_divergence(name, 0.5)
    assert divergence.permits_direct
    found = policy_of(pairs_of(lambda x: BETA * divergence.slope_of_log(x)))
    np.testing.assert_allclose(found, BEST[name], atol=1e-6)


def test_every_divergence_that_permits_it_is_tried():
    assert {name for name in DIVERGENCES if make_divergence(name).permits_direct} == BEST.keys()


def test_chi_po_reaches_its_policy_unless_the_clip_is_in_the_way():
    chi = pairs_of(lambda x: BETA * chi_rewards(x), lambda g: preference.clipped(g, 3.0))
    np.testing.assert_allclose(policy_of(chi), CHI_BEST, atol=1e-6)
    tight = pairs_of(lambda x: BETA * chi_rewards(x), lambda g: preference.clipped(g, 0.5))
    assert np.abs(policy_of(tight) - CHI_BEST).max() > 5e-4  # the gap between the first and the last is 1.5


def test_the_robust_loss_reaches_it_from_flipped_judgements_and_dpo_does_not():
    e = 0.2
    flipped = (1 - e) * CHANCE + e * (1 - CHANCE)
    robust = pairs_of(lambda x: BETA * x, lambda g: preference.robust(g, e))
    np.testing.assert_allclose(policy_of(robust, chance=flipped), KL_BEST, atol=1e-6)
    assert np.abs(policy_of(pairs_of(lambda x: BETA * x), chance=flipped) - KL_BEST).max() > 0.05
    smooth = pairs_of(lambda x: BETA * x, lambda g: preference.logistic(g, e))
    assert np.abs(policy_of(smooth) - KL_BEST).max() > 0.05


def test_choices_from_whole_lists_reach_it_too():
    """All 120 orders with their Plackett-Luce probabilities."""
    orders = list(itertools.permutations(range(5)))
    masks, chance = np.zeros((120, 5, 5), bool), np.ones(120)
    for place, order in enumerate(orders):
        for first, second in itertools.combinations(order, 2):
            masks[place, first, second] = True
        for start in range(4):
            left = np.exp(REWARDS[list(order[start:])])
            chance[place] *= left[0] / left.sum()
    assert chance.sum() == pytest.approx(1.0)
    found = policy_of(lambda x, better: plackett_luce_loss(rewards=BETA * x, better=better), masks, chance)
    np.testing.assert_allclose(found, KL_BEST, atol=1e-6)


def test_ipo_follows_how_often_an_arm_wins_and_not_its_reward():
    """Least squares to gaps of (2 p - 1) / (2 beta): l_i is the mean over opponents, 2 p_ij - 1 = tanh(gap / 2)."""
    wins = np.tanh((REWARDS[:, None] - REWARDS[None, :]) / 2).mean(axis=1) / (2 * BETA)
    tilted = REF * np.exp(wins)
    found = policy_of(pairs_of(lambda x: x, lambda g: preference.squared(g, BETA)))
    np.testing.assert_allclose(found, tilted / tilted.sum(), atol=1e-6)
    assert np.abs(found - KL_BEST).max() > 0.05


def test_the_hinge_sees_only_which_arm_wins_more_often():
    gaps = jnp.linspace(-4.0, 4.0, 801)
    for chance in (0.55, 0.95):
        expected = chance * preference.hinge(gaps) + (1 - chance) * preference.hinge(-gaps)
        assert float(gaps[jnp.argmin(expected)]) == pytest.approx(1.0)
    found = policy_of(pairs_of(lambda x: BETA * x, preference.hinge))
    assert np.abs(found - KL_BEST).max() > 0.05


def test_losses_without_a_reference_do_not_know_the_policy_that_they_start_from():
    """SimPO of one token each: pi ∝ e^(r / beta), whatever REF is."""
    found = policy_of(pairs_of(lambda x: BETA * (x + jnp.log(jnp.array(REF)))))
    tilted = np.exp(REWARDS / BETA)
    np.testing.assert_allclose(found, tilted / tilted.sum(), atol=1e-6)


def test_orpo_alone_of_its_odds_and_its_likelihood():
    """NLL_w + lambda L(log odds): a pair by hand, p_w = 1/2 and p_l = 1/4 a token, odds 1 and 1/3."""
    rewards = log_odds(jnp.log(jnp.array([0.5, 0.25])))
    better = jnp.array([[False, True], [False, False]])
    loss = preference.mean_over_pairs(rewards=rewards, better=better, term=preference.logistic)
    assert float(loss) == pytest.approx(math.log(1 + 1 / 3), rel=1e-6)
