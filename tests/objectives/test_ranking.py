import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.ranking import comparable_pairs, prompt_aware_loss, ranked_utility_loss
from rlhf_jax.objectives.utilities import Linear, Log, LogSigmoid, NegativePower, Power

REWARDS = (0.9, 0.2, 0.6, 0.55, 0.1)
RANKS = (0, 1, 1, 3, 2)
MASK = (True, True, True, True, False)
MEMBERS = [
    (LogSigmoid(sigma=0.5), lambda x: -math.log1p(math.exp(-x / 0.5))),
    (Linear(), lambda x: x),
    # tangents at the knee .1: log .1 + (x - .1) / .1;  -1/.1 + (x - .1) / .01;  sqrt .1 + (x - .1) / (2 sqrt .1)
    (Log(epsilon=0.1), lambda x: math.log(x) if x >= 0.1 else math.log(0.1) + (x - 0.1) / 0.1),
    (NegativePower(gamma=1.0, epsilon=0.1), lambda x: -1 / x if x >= 0.1 else -10 + (x - 0.1) * 100),
    (Power(gamma=0.5, epsilon=0.1), lambda x: x**0.5 if x >= 0.1 else 0.1**0.5 + (x - 0.1) / (2 * 0.1**0.5)),
]
every_member = pytest.mark.parametrize(("utility", "formula"), MEMBERS, ids=lambda v: getattr(v, "name", ""))


def loss_of(rewards, ranks=RANKS, mask=MASK, utility=MEMBERS[0][0]):
    return ranked_utility_loss(
        rewards=jnp.asarray(rewards, jnp.float32), ranks=jnp.asarray(ranks), mask=jnp.asarray(mask), utility=utility
    )


def gradient_of(rewards, **kwargs):
    return np.asarray(jax.grad(lambda r: loss_of(r, **kwargs))(jnp.asarray(rewards, jnp.float32)))


def by_hand(rewards, ranks, mask, formula):
    gaps = [
        rewards[i] - rewards[j]
        for i, j in itertools.permutations(range(len(rewards)), 2)
        if mask[i] and mask[j] and ranks[i] < ranks[j]
    ]
    return -sum(map(formula, gaps)) / len(gaps)


def test_the_pairs_of_a_list_with_a_tie_and_a_gap():
    # ranks 0 1 1 3 (2 is missing): 0 beats 1, 2 and 3; 1 and 2 beat 3; 1 and 2 tie.
    expected = np.zeros((5, 5), bool)
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 3), (2, 3)):
        expected[i, j] = True
    np.testing.assert_array_equal(comparable_pairs(jnp.asarray(RANKS), jnp.asarray(MASK)), expected)


@every_member
def test_the_loss_is_the_mean_over_pairs(utility, formula):
    assert float(loss_of(REWARDS, utility=utility)) == pytest.approx(by_hand(REWARDS, RANKS, MASK, formula), rel=1e-5)


def test_three_rewards_by_hand():
    # gaps .5, .9, .4 under U = x: mean .6; each reward's gradient is -(pairs won - pairs lost) / 3
    assert float(loss_of((1.0, 0.5, 0.1), (0, 1, 2), (True,) * 3, Linear())) == pytest.approx(-0.6, rel=1e-6)
    gradient = gradient_of((1.0, 0.5, 0.1), ranks=(0, 1, 2), mask=(True,) * 3, utility=Linear())
    np.testing.assert_allclose(gradient, (-2 / 3, 0, 2 / 3), atol=1e-6)


@pytest.mark.parametrize("gap", [-3.0, 0.0, 0.7])
def test_a_list_of_two_is_bradley_terry(gap):
    # d/dgap of log(1 + e^-gap) is -1 / (1 + e^gap)
    rewards, ranks, mask = (0.3, 0.3 + gap), (1, 0), (True, True)
    assert float(loss_of(rewards, ranks, mask, LogSigmoid())) == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-5)
    slope = -1 / (1 + math.exp(gap))
    gradient = gradient_of(rewards, ranks=ranks, mask=mask, utility=LogSigmoid())
    np.testing.assert_allclose(gradient, (-slope, slope), rtol=1e-5)


def test_tied_responses_never_meet():
    # The loss is additive over pairs, so a compared pair, and only it, shows in the mixed second derivative.
    hessian = np.asarray(jax.jit(jax.hessian(loss_of))(jnp.asarray(REWARDS, jnp.float32)))
    assert hessian[1, 2] == 0.0
    assert hessian[0, 2] != 0.0


def test_a_list_of_ties_gives_nothing():
    assert float(loss_of((0.1, 0.9, 0.5), (1, 1, 1), (True,) * 3)) == 0.0
    np.testing.assert_array_equal(gradient_of((0.1, 0.9, 0.5), ranks=(1, 1, 1), mask=(True,) * 3), np.zeros(3))


@every_member
@pytest.mark.parametrize("mask", [(False,) * 3, (True, False, False)])
def test_without_a_pair_the_loss_and_its_gradient_are_zero(utility, formula, mask):
    assert float(loss_of((0.1, 0.9, 0.5), (0, 1, 2), mask, utility)) == 0.0
    np.testing.assert_array_equal(
        gradient_of((0.1, 0.9, 0.5), ranks=(0, 1, 2), mask=mask, utility=utility), np.zeros(3)
    )
    del formula


@every_member
@pytest.mark.parametrize("missing", [0.4, math.nan, math.inf, -math.inf])
def test_a_missing_response_may_hold_anything(utility, formula, missing):
    rewards = (*REWARDS[:4], missing)
    assert float(loss_of(rewards, utility=utility)) == pytest.approx(by_hand(REWARDS, RANKS, MASK, formula), rel=1e-5)
    gradient = gradient_of(rewards, utility=utility)
    assert gradient[4] == 0.0
    np.testing.assert_allclose(gradient, gradient_of(REWARDS, utility=utility), rtol=1e-6)


@every_member
def test_only_the_gaps_count(utility, formula):
    shifted = np.asarray(REWARDS) + 0.25
    assert float(loss_of(shifted, utility=utility)) == pytest.approx(float(loss_of(REWARDS, utility=utility)), rel=1e-5)
    del formula


@every_member
def test_the_order_of_the_responses_does_not_count(utility, formula):
    place = np.array([3, 4, 0, 2, 1])
    rewards, ranks, mask = (np.asarray(x)[place] for x in (REWARDS, RANKS, MASK))
    assert float(loss_of(rewards, ranks, mask, utility)) == pytest.approx(
        float(loss_of(REWARDS, utility=utility)), rel=1e-5
    )
    np.testing.assert_allclose(
        gradient_of(rewards, ranks=ranks, mask=mask, utility=utility),
        gradient_of(REWARDS, utility=utility)[place],
        rtol=1e-5,
        atol=1e-7,
    )
    del formula


def test_each_prompt_is_trained_under_its_own_utility():
    utilities = [utility for utility, _ in MEMBERS]

    def losses(rewards):
        return jax.vmap(
            lambda r, index: prompt_aware_loss(
                rewards=r, ranks=jnp.asarray(RANKS), mask=jnp.asarray(MASK), utilities=utilities, index=index
            )
        )(rewards, jnp.arange(len(utilities)))

    rewards = jnp.tile(jnp.asarray(REWARDS, jnp.float32), (len(utilities), 1))
    expected = [by_hand(REWARDS, RANKS, MASK, formula) for _, formula in MEMBERS]
    np.testing.assert_allclose(jax.jit(losses)(rewards), expected, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda r: jnp.sum(losses(r))))(rewards)
    np.testing.assert_allclose(
        gradient, [gradient_of(REWARDS, utility=utility) for utility in utilities], rtol=1e-5, atol=1e-7
    )


def test_a_steep_utility_does_not_leak_into_a_flat_one():
    # Batched, both branches run; rewards of +-1e30 are only bearable under x, where the gradient is -+1 for the pair.
    utilities = (Linear(), NegativePower(gamma=2.0, epsilon=1e-4))

    def loss(rewards):
        return jnp.sum(
            jax.vmap(
                lambda r, index: prompt_aware_loss(
                    rewards=r,
                    ranks=jnp.arange(2),
                    mask=jnp.ones(2, bool),
                    utilities=utilities,
                    index=index,
                )
            )(rewards, jnp.array([0, 1]))
        )

    gradient = jax.jit(jax.grad(loss))(jnp.array([[-1e30, 1e30], [0.9, 0.1]]))
    # -x^-2 at .8: slope 2 / .8^3
    np.testing.assert_allclose(gradient, [[-1, 1], [-2 / 0.8**3, 2 / 0.8**3]], rtol=1e-5)


# ------------------------------------------------------------------------------ margins, mistakes, partial orders


def extended(rewards, **settings):
    return ranked_utility_loss(
        rewards=jnp.asarray(rewards, jnp.float32),
        ranks=jnp.asarray(RANKS),
        mask=jnp.asarray(MASK),
        **{"utility": LogSigmoid(), **settings},
    )


@every_member
@pytest.mark.parametrize("margin", [0.0, 0.15])
@pytest.mark.parametrize("mistakes", [0.0, 0.2])
def test_a_margin_moves_every_gap_and_smoothing_mixes_both_orders(utility, formula, margin, mistakes):
    found = extended(REWARDS, utility=utility, margin=margin, label_smoothing=mistakes)
    expected = by_hand(
        REWARDS, RANKS, MASK, lambda x: (1 - mistakes) * formula(x - margin) + mistakes * formula(margin - x)
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_without_margin_mistakes_and_edges_nothing_is_changed():
    better = comparable_pairs(jnp.asarray(RANKS), jnp.asarray(MASK))
    plain = float(loss_of(REWARDS, utility=LogSigmoid()))
    assert float(extended(REWARDS, margin=jnp.float32(0), label_smoothing=0.0, better=better)) == plain


def test_smoothing_stops_the_pull_where_the_probability_is_right():
    # Under Bradley-Terry a share s of mistakes is best met by sigma(gap) = 1 - s.
    gap = math.log(0.8 / 0.2)
    for off, sign in ((-0.5, -1), (0.0, 0), (0.5, 1)):
        slope = jax.grad(
            lambda r: ranked_utility_loss(
                rewards=r, ranks=jnp.arange(2), mask=jnp.ones(2, bool), utility=LogSigmoid(), label_smoothing=0.2
            )
        )(jnp.array([gap + off, 0.0]))[0]
        assert np.sign(np.round(slope, 6)) == sign


def test_a_partial_order_compares_what_was_compared():
    # 0 > 1 and 2 > 3 alone, whatever the ranks say; gaps .7 and .05 under U = x
    better = np.zeros((5, 5), bool)
    better[0, 1] = better[2, 3] = True
    found = extended(REWARDS, utility=Linear(), better=jnp.asarray(better))
    assert float(found) == pytest.approx(-(0.7 + 0.05) / 2, rel=1e-5)
    slopes = jax.grad(lambda r: extended(r, utility=Linear(), better=jnp.asarray(better)))(jnp.asarray(REWARDS))
    np.testing.assert_allclose(slopes, [-0.5, 0.5, -0.5, 0.5, 0], atol=1e-6)


def test_margins_and_mistakes_reach_every_prompts_own_utility():
    utilities = [utility for utility, _ in MEMBERS]
    for index, (_, formula) in enumerate(MEMBERS):
        found = prompt_aware_loss(
            rewards=jnp.asarray(REWARDS, jnp.float32),
            ranks=jnp.asarray(RANKS),
            mask=jnp.asarray(MASK),
            utilities=utilities,
            index=jnp.asarray(index),
            margin=0.15,
            label_smoothing=0.2,
        )
        expected = by_hand(REWARDS, RANKS, MASK, lambda x, f=formula: 0.8 * f(x - 0.15) + 0.2 * f(0.15 - x))
        assert float(found) == pytest.approx(expected, rel=1e-5)
