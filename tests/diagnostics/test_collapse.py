"""Reward collapse by hand, by SciPy and by simulation."""

import time

import numpy as np
import pytest
from scipy.stats import ks_2samp, permutation_test, wasserstein_distance

from rlhf_jax.diagnostics import coincide, measure_collapse
from rlhf_jax.diagnostics.collapse import w1_of_shuffled_lists

KINDS = ["open", "closed"]
EVEN = np.linspace(1.0, 0.0, 8)
SHARP = np.repeat([1.0, 0.0], 4)


def measure(rewards, types, **settings):
    """Lists in full order, all responses there."""
    rewards = np.asarray(rewards, float)
    ranks = np.tile(np.arange(rewards.shape[1]), (len(rewards), 1))
    return measure_collapse(rewards, ranks, np.ones(rewards.shape, bool), types, **settings)


def tiled(*lists):
    return np.tile(lists, (10, 1)), [KINDS[i % len(lists)] for i in range(10 * len(lists))]


def test_two_lists_of_three_a_type_by_hand():
    """Pooled, in order: a 0 0 .5 .5 1 1; b is a + .25 in every place. Their law is one shifted, so W1 is the shift."""
    rewards = [[1.0, 0.5, 0.0], [1.25, 0.75, 0.25], [0.5, 0.0, 1.0], [0.75, 0.25, 1.25]]
    best = np.array([[1.0, 0.5, 0.0]] * 4)
    found = measure(rewards, ["a", "b", "a", "b"], best=best, apart={("a", "b"): 0.5})
    np.testing.assert_allclose(found.types["a"].profile, [0.75, 0.25, 0.5])
    np.testing.assert_allclose(found.types["b"].profile, [1.0, 0.5, 0.75])
    np.testing.assert_allclose(found.types["b"].r_star, [1.0, 0.5, 0.0])
    assert (found.types["a"].mean_distance, found.types["a"].max_distance) == pytest.approx((1 / 3, 0.5))
    assert (found.types["b"].mean_distance, found.types["b"].max_distance) == pytest.approx((0.25, 0.75))
    (pair,) = found.pairs
    assert pair.w1 == pytest.approx(0.25)
    # At a reward just below .25, a third of a lies below and none of b.
    assert pair.ks == pytest.approx(1 / 3)
    # Of the six ways to part four lists, two are these (W1 .25), the other four put one a and one b on each side: 0.
    assert pair.floor == pytest.approx(0.25 / 3)
    assert pair.p_value == pytest.approx(1 / 3)
    assert pair.index == found.index == pytest.approx(1 - (0.25 - 0.25 / 3) / (0.5 - 0.25 / 3))


def test_the_index_is_one_for_equal_types_and_zero_for_those_as_far_apart_as_they_should_be():
    rewards, types = tiled(EVEN, EVEN)
    best = tiled(EVEN, SHARP)[0]
    equal = measure(rewards, types, best=best)
    assert (equal.index, equal.pairs[0].w1) == (1.0, 0.0)
    # Both in falling order: W1 of the best rewards is the mean distance place by place.
    assert equal.pairs[0].expected == pytest.approx(np.abs(EVEN - SHARP).mean())
    assert equal.pairs[0].basis == "utilities"
    rewards, types = tiled(EVEN, SHARP)
    assert measure(rewards, types, best=best).index == pytest.approx(0.0, abs=1e-12)
    farther, types = tiled(EVEN, 2 * SHARP - 0.5)
    assert measure(farther, types, best=best).index == 0.0
    half, types = tiled(EVEN, (EVEN + SHARP) / 2)
    assert 0.4 < measure(half, types, best=best).index < 0.6


def test_types_that_should_differ_and_coincide_are_named():
    best = tiled(EVEN, SHARP)[0]
    collapsed, types = tiled(EVEN, EVEN)
    (line,) = coincide(measure(collapsed, types, best=best))
    assert line == (
        "closed and open: one reward distribution (W1 0.000, expected "
        f"{np.abs(EVEN - SHARP).mean():.3f} by their utilities): collapsed"
    )
    apart, _ = tiled(EVEN, SHARP)
    assert coincide(measure(apart, types, best=best)) == []
    # One utility for both: nothing says that they should differ.
    assert coincide(measure(collapsed, types, best=collapsed)) == []
    # A model that has learned nothing gives one reward to all, and has not collapsed.
    assert coincide(measure(np.full(collapsed.shape, 0.5), types, best=best)) == []


def test_where_nothing_else_is_known_gold_says_how_far_apart_types_should_be():
    """Rewards that are gold up to scale and shift are as far apart as expected; the same for both types, collapsed."""
    gold, types = tiled(EVEN, SHARP)
    found = measure(3.0 * gold - 7.0, types, gold=gold)
    assert (found.pairs[0].basis, found.index) == ("gold", pytest.approx(0.0, abs=1e-9))
    assert found.pairs[0].expected == pytest.approx(3 * np.abs(EVEN - SHARP).mean())
    (line,) = coincide(measure(tiled(EVEN, EVEN)[0], types, gold=gold))
    assert "by their gold rewards" in line
    gold[0, 0] = np.nan
    assert measure(tiled(EVEN, EVEN)[0], types, gold=gold).pairs[0].basis == "scale"


def test_the_scale_is_a_quarter_for_the_uniform_law_against_two_points_and_knows_no_unit():
    even = (np.arange(1000) + 0.5) / 1000
    rewards = np.stack([even, np.repeat([0.0, 1.0], 500)])[[0, 1, 0, 1, 0, 1, 0, 1]]
    (pair,) = measure(rewards, KINDS * 4).pairs
    assert (pair.basis, pair.w1) == ("scale", pytest.approx(0.25, abs=1e-3))
    assert pair.expected == pytest.approx(0.25, abs=1e-3)
    # Two constants 1 apart: standard deviation 1/2, sqrt(3/8) of it.
    far, types = tiled(np.zeros(3), np.ones(3))
    assert measure(far, types).pairs[0].expected == pytest.approx(np.sqrt(3 / 8) / 2)
    scaled = measure(40.0 * rewards - 3.0, KINDS * 4)
    assert scaled.pairs[0].expected == pytest.approx(40 * pair.expected)
    assert scaled.index == pytest.approx(pair.index)


def test_distances_are_those_of_pooled_responses_padding_left_out():
    rng = np.random.default_rng(0)
    rewards = rng.uniform(size=(30, 6)) ** np.repeat([[1.0], [2.0]], 15, axis=0)
    mask = rng.uniform(size=rewards.shape) < 0.7
    ranks = np.tile(np.arange(6), (30, 1))
    first, second = rewards[:15][mask[:15]], rewards[15:][mask[15:]]
    types = ["a"] * 15 + ["b"] * 15
    (pair,) = measure_collapse(np.where(mask, rewards, 99.0), ranks, mask, types).pairs
    assert pair.ks == pytest.approx(ks_2samp(first, second).statistic)
    grid = np.linspace(0, 1, 100_001)
    shares = [np.searchsorted(np.sort(values), grid, "right") / len(values) for values in (first, second)]
    assert pair.w1 == pytest.approx(np.abs(shares[0] - shares[1]).mean(), abs=1e-4)


def test_the_floor_is_what_samples_of_one_law_show():
    """Under one law the shuffles are exchangeable with the data: small p-values are as rare as they say, and the mean
    W1 of the data is that of its shuffles. Responses of a list are dependent, so single ones must not be shuffled.
    """
    p_values, ratios = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(24, 1))
        rewards = centres + 0.1 * rng.normal(size=(24, 5))
        (pair,) = measure(rewards, KINDS * 12, shuffles=99, seed=seed).pairs
        p_values.append(pair.p_value)
        ratios.append(pair.w1 / pair.floor)
    assert np.mean(np.array(p_values) <= 0.1) < 0.25
    assert 0.35 < np.mean(p_values) < 0.65
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("lists", "first", "levels"), [(24, 10, 1000), (24, 10, 3), (7, 3, 1000), (7, 3, 2), (60, 58, 9)]
)
def test_the_floor_is_that_of_scipys_permutation_test(lists, first, levels):
    """Ties, missing responses, and every way to part seven lists."""
    rng = np.random.default_rng(lists + levels)
    rewards = rng.integers(0, levels, (lists, 5)) / levels
    mask = rng.random(rewards.shape) < 0.7
    mask[:, 0] = True
    one = np.isin(np.arange(lists), rng.permutation(lists)[:first])

    def distance(a, b):
        return wasserstein_distance(rewards[a][mask[a]], rewards[b][mask[b]])

    wanted = permutation_test(
        (np.flatnonzero(one), np.flatnonzero(~one)),
        distance,
        vectorized=False,
        n_resamples=199,
        alternative="greater",
        rng=np.random.default_rng(8),
    )
    floor, p_value = w1_of_shuffled_lists(rewards, mask, one, ~one, seed=8)
    assert floor == pytest.approx(np.mean(wanted.null_distribution), rel=1e-12)
    assert p_value == pytest.approx(wanted.pvalue, rel=1e-12)


def test_lists_that_are_all_alike_are_as_far_apart_in_every_shuffle():
    """No rounding may tell a distance from itself: the p-value of equal types is 1."""
    rewards = np.tile(np.random.default_rng(0).random(7), (41, 1))
    one = np.arange(41) < 20
    assert w1_of_shuffled_lists(rewards, np.ones(rewards.shape, bool), one, ~one) == (0.0, 1.0)


def test_thirty_types_take_a_second_and_not_ten():
    rng = np.random.default_rng(0)
    rewards, gold = rng.random((2, 600, 8))
    start = time.process_time()
    found = measure(rewards, [f"t{i % 30}" for i in range(600)], gold=gold)
    assert len(found.pairs) == 435
    assert time.process_time() - start < 4.0  # 0.5 s, and a slow machine


def test_the_same_seed_gives_the_same_floor():
    rng = np.random.default_rng(1)
    rewards, types = rng.uniform(size=(40, 4)), KINDS * 20
    first = measure(rewards, types, seed=3).pairs[0]
    assert measure(rewards, types, seed=3).pairs[0] == first
    assert measure(rewards, types, seed=4).pairs[0].floor != first.floor


def test_too_few_lists_and_too_few_types_have_no_index():
    one = np.array([True, False, False]), np.array([False, True, True])
    assert w1_of_shuffled_lists(np.eye(3), np.ones((3, 3), bool), *one) == (np.inf, 1.0)
    assert measure(np.eye(3), ["a", "b", "b"]).index is None
    alone = measure(np.eye(3), ["a", "a", ""])
    assert (list(alone.types), alone.pairs, alone.index) == (["a"], [], None)


def test_three_types_have_three_pairs_and_the_index_weighs_them_by_what_is_expected():
    rewards = np.tile([EVEN, EVEN, SHARP], (10, 1))
    best = np.tile([EVEN, SHARP, SHARP], (10, 1))
    found = measure(rewards, ["a", "b", "c"] * 10, best=best)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.basis for pair in found.pairs] == ["utilities", "utilities", "scale"]
    weights = np.array([pair.expected for pair in found.pairs])
    assert found.index == pytest.approx(np.array([pair.index for pair in found.pairs]) @ weights / weights.sum())


def test_a_type_whose_best_rewards_are_unknown_has_no_distance():
    rewards, types = tiled(EVEN, SHARP)
    best = rewards.copy()
    best[np.asarray(types) == "open"] = np.nan
    found = measure(rewards, types, best=best)
    assert found.types["open"].r_star is None
    assert found.types["closed"].mean_distance == 0.0
    assert found.pairs[0].basis == "scale"


def _two_types(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Ten lists each of two types, rewards of one law."""
    rewards = np.random.default_rng(seed).random((20, 4))
    return rewards, np.tile(np.arange(4), (20, 1)), np.ones((20, 4), bool), ["open"] * 10 + ["shut"] * 10


def test_rewards_that_are_not_finite_are_left_out() -> None:
    rewards, ranks, mask, types = _two_types()
    without = mask.copy()
    without[3, 2] = False
    bad = rewards.copy()
    bad[3, 2] = np.nan
    found, wanted = measure_collapse(bad, ranks, mask, types), measure_collapse(rewards, ranks, without, types)
    assert found.pairs == wanted.pairs
    assert found.index == wanted.index


def test_a_type_without_a_finite_reward_is_no_type() -> None:
    rewards, ranks, mask, types = _two_types()
    rewards[10:] = np.inf
    found = measure_collapse(rewards, ranks, mask, types)
    assert list(found.types) == ["open"]
    assert found.pairs == []
    assert found.index is None


def test_types_that_differ_by_a_nul_are_two() -> None:
    """NumPy's texts lose NULs at their end."""
    rewards, types = tiled(EVEN, SHARP)
    found = measure(rewards, ["a\0" if kind == "open" else "a" for kind in types])
    wanted = measure(rewards, ["b" if kind == "open" else "a" for kind in types])
    assert list(found.types) == ["a", "a\0"]
    assert found.pairs[0].w1 == wanted.pairs[0].w1 > 0


def test_a_list_of_ties_alone_hides_no_other_lists_best_rewards() -> None:
    rewards, ranks, mask, types = _two_types()
    best = np.where(np.arange(20)[:, None] < 10, [1.0, 0.6, 0.4, 0.0], [1.0, 1.0, 0.0, 0.0])
    tied = best.copy()
    ranks[15], tied[15] = 0, np.nan
    found = measure_collapse(rewards, ranks, mask, types, best=tied)
    assert found.pairs[0].basis == "utilities"
    assert found.pairs[0].expected == pytest.approx(0.2)  # (0.4 + 0.4) / 4 by hand
    assert found.types["shut"].r_star.tolist() == [1.0, 1.0, 0.0, 0.0]
