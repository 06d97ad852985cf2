"""Best rewards of a full order against closed forms, and against tables refined by another program in 40 digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import legendre

from rlhf_jax.objectives.utilities import (
    Exponential,
    Linear,
    Log,
    LogSigmoid,
    NegativePower,
    Power,
    Quantile,
    Utility,
    make_utility,
)
from rlhf_jax.theory.optimum import best_rewards, best_rewards_by_type

# Utility, n, the largest sum, the distances of the better half from 1 (t_1 .. t_m).
TABLE = [
    (Power(gamma=0.2), 5, 8.598316712185, (0.0, 0.143538760967)),
    (Power(gamma=0.2), 8, 23.297859159452, (0.0, 0.0430221005154, 0.172677698045, 0.380445230768)),
    (Power(gamma=0.5), 5, 7.1112702897436, (0.0, 0.0747557761932)),
    (Power(gamma=0.5), 8, 18.686143933346, (0.0, 0.0111456555096, 0.0975172372893, 0.335322219032)),
    (Power(gamma=0.8), 5, 6.3014573391636, (0.0, 0.00321358442886)),
    (Power(gamma=0.8), 8, 16.355364215652, (0.0, 2.73236732789e-5, 0.00659363800411, 0.183473014672)),
    (Log(), 5, -7.9353558109312, (0.0, 0.172673164646)),
    (Log(), 8, -27.484918475808, (0.0, 0.0641299257452, 0.204149909283, 0.395350391049)),
    (NegativePower(gamma=0.5), 5, -15.469561104212, (0.0, 0.21247558801)),
    (NegativePower(gamma=0.5), 8, -48.875859140832, (0.0, 0.101209010406, 0.247375203476, 0.413752668735)),
    (NegativePower(gamma=1.0), 5, -25.552297370488, (0.0, 0.230237378782)),
    (NegativePower(gamma=1.0), 8, -95.419245965841, (0.0, 0.120759353052, 0.266560784734, 0.421349349575)),
    (LogSigmoid(sigma=0.1), 5, -0.33651458480991, (0.0, 0.245278877358)),
    (LogSigmoid(sigma=0.1), 8, -1.9028285553437, (0.0, 0.118215802383, 0.272069500327, 0.424034248517)),
    (LogSigmoid(sigma=0.25), 5, -1.7041766759763, (0.0, 0.180814548516)),
    (LogSigmoid(sigma=0.25), 8, -5.7536212139941, (0.0, 0.0, 0.195167219379, 0.400041490293)),
    (LogSigmoid(sigma=0.5), 5, -3.1470531553647, (0.0, 0.0)),
    (LogSigmoid(sigma=0.5), 8, -9.596874929446, (0.0, 0.0, 0.0361772153687, 0.350732180395)),
    (LogSigmoid(sigma=1.0), 5, -4.5356490479132, (0.0, 0.0)),
    (LogSigmoid(sigma=1.0), 8, -13.228799346913, (0.0, 0.0, 0.0, 0.235729696351)),
    (LogSigmoid(sigma=4.0), 5, -6.2204481819039, (0.0, 0.0)),
    (LogSigmoid(sigma=4.0), 8, -17.532796884781, (0.0, 0.0, 0.0, 0.0)),
    # x: sum_i (n + 1 - 2 i) r_i = 7 + 5 + 3 + 1
    (Linear(), 8, 16.0, (0.0, 0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(("utility", "n", "best", "half"), TABLE, ids=lambda value: repr(value)[:60])
def test_the_tables_in_forty_digits(utility, n, best, half):
    found = best_rewards(utility, n)
    np.testing.assert_allclose(found.tails[: n // 2], half, rtol=1e-10, atol=1e-12)
    upper = 1.0 - np.array(half)
    expected = np.concatenate([upper, [0.5] * (n % 2), 1.0 - upper[::-1]])
    np.testing.assert_allclose(found.rewards, expected, rtol=0, atol=1e-10)
    assert found.objective == pytest.approx(best, rel=1e-12)
    assert found.kkt_residual < 1e-13
    assert found.unique


@pytest.mark.parametrize(
    ("utility", "of_two", "of_three"),
    [
        (Power(gamma=0.2), 1.0, 2.74110112659),
        (Power(gamma=0.8), 1.0, 2.14869835500),
        (Log(), 0.0, -1.38629436112),
        (NegativePower(gamma=0.5), -1.0, -3.82842712475),
        (LogSigmoid(sigma=0.25), -0.0181499279, -0.2720059500),
    ],
    ids=repr,
)
def test_two_and_three_responses_are_the_same_under_every_utility(utility, of_two, of_three):
    two, three = best_rewards(utility, 2), best_rewards(utility, 3)
    np.testing.assert_array_equal(two.rewards, [1.0, 0.0])
    np.testing.assert_array_equal(three.rewards, [1.0, 0.5, 0.0])
    assert two.objective == pytest.approx(of_two, abs=1e-9)
    assert three.objective == pytest.approx(of_three, abs=1e-9)


def test_one_response_is_free():
    found = best_rewards(Log(), 1)
    assert found.rewards.tolist() == [0.5]
    assert not found.unique
    with pytest.raises(ValueError, match="tiers"):
        best_rewards(Log(), 0)


@pytest.mark.parametrize("n", [4, 5, 20, 200])
def test_log_asks_for_the_gauss_lobatto_points(n):
    # The maximisers of prod |r_i - r_j| on an interval are the roots of (1 - x^2) P'_{n-1}(x) (Fekete, Stieltjes).
    found = best_rewards(Log(), n)
    x = np.sort(2.0 * found.rewards[1:-1] - 1.0)
    if n <= 20:
        inner = np.sort(legendre.legroots(legendre.legder([0.0] * (n - 1) + [1.0])))
        np.testing.assert_allclose(x, inner, rtol=0, atol=1e-12)
    # P'_{n-1} itself, by its own recurrence: one Newton step towards its root is below 1e-12.
    series = legendre.Legendre([0.0] * (n - 1) + [1.0]).deriv()
    np.testing.assert_allclose(series(x) / series.deriv()(x), 0.0, atol=1e-12)
    assert np.all(np.diff(x) > 0)
    assert found.rewards[[0, -1]].tolist() == [1.0, 0.0]


def test_gaps_below_the_resolution_of_one_keep_their_relative_accuracy():
    found = best_rewards(Power(gamma=0.95), 20)
    assert found.tails[1] == pytest.approx(1.0245e-34, rel=1e-3)
    assert found.tails[-2] == found.tails[1]
    np.testing.assert_allclose(
        best_rewards(Power(gamma=0.9), 8).tails[:4], [0, 9.06240070e-10, 5.35026136e-5, 5.26097596e-2], rtol=1e-8
    )


def test_what_float64_cannot_hold_is_said():
    with pytest.raises(ArithmeticError, match="float64"):
        best_rewards(Power(gamma=0.9999), 20)


@pytest.mark.parametrize("m", [2, 4, 10])
def test_log_sigmoid_falls_onto_two_points_at_its_threshold(m):
    # Even n = 2m: exactly (1^m, 0^m) if and only if m U'(1) >= (m - 1) U'(0), sigma >= 1 / log((m + 1) / (m - 1)).
    threshold = 1.0 / np.log((m + 1) / (m - 1))
    two_points = [1.0] * m + [0.0] * m
    assert best_rewards(LogSigmoid(sigma=threshold * (1 + 1e-6)), 2 * m).rewards.tolist() == two_points
    below = best_rewards(LogSigmoid(sigma=threshold * (1 - 1e-4)), 2 * m).rewards
    assert below[m - 1] < 1.0
    assert below[: m - 1].tolist() == [1.0] * (m - 1)
    assert below[m] > 0.0


@pytest.mark.parametrize(("n", "sigma"), [(5, 0.49407), (7, 0.78331), (9, 1.05387), (21, 2.59411)])
def test_log_sigmoid_of_an_odd_number_falls_onto_three_points(n, sigma):
    m = n // 2
    above, below = (best_rewards(LogSigmoid(sigma=sigma + step), n).rewards for step in (2e-5, -2e-5))
    assert above.tolist() == [1.0] * m + [0.5] + [0.0] * m
    assert below[m - 1] < 1.0


@pytest.mark.parametrize(("n", "sigma"), [(5, 0.49407), (8, 0.21300), (20, 0.06511)])
def test_the_first_tie_of_log_sigmoid(n, sigma):
    assert best_rewards(LogSigmoid(sigma=sigma + 2e-5), n).rewards[1] == 1.0
    assert best_rewards(LogSigmoid(sigma=sigma - 2e-5), n).rewards[1] < 1.0


@pytest.mark.parametrize(
    ("utility", "ascending"),
    [
        (Log(extension="shift", epsilon=0.1), (0, 0, 0.146304, 0.372788, 0.627212, 0.853696, 1, 1)),
        (
            NegativePower(gamma=1.0, extension="shift", epsilon=0.1),
            (0, 0.089133, 0.241260, 0.412028, 0.587972, 0.758740, 0.910867, 1),
        ),
        (LogSigmoid(sigma=0.25), (0, 0, 0.195167, 0.400041, 0.599959, 0.804833, 1, 1)),
        (Linear(), (0, 0, 0, 0, 1, 1, 1, 1)),
    ],
    ids=["log", "inverse", "log_sigmoid", "linear"],
)
def test_what_the_released_experiment_trains_to(utility, ascending):
    np.testing.assert_allclose(best_rewards(utility, 8, trained=True).rewards[::-1], ascending, atol=6e-7)


@pytest.mark.parametrize("utility", [Power, Log, NegativePower], ids=lambda member: member.name)
def test_a_tangent_below_every_gap_changes_nothing(utility):
    trained = best_rewards(utility(epsilon=1e-4), 8, trained=True)
    np.testing.assert_allclose(trained.rewards, best_rewards(utility(), 8).rewards, atol=1e-12)


@pytest.mark.parametrize("extension", ["tangent", "shift"])
@pytest.mark.parametrize("n", [9, 40])
@pytest.mark.parametrize("member", ["power", "log", "negative_power", "exponential", "quantile"])
def test_no_direction_inside_the_box_improves_what_is_trained(member, n, extension):
    # Concave, so that this is the whole of optimality; by differences of sums written out here.
    utility = make_utility(member, extension=extension, epsilon=0.05, a=2.0, b=3.0)
    found = best_rewards(utility, n, trained=True)
    ranks = jnp.arange(n)
    with jax.enable_x64(True):
        weights = utility.pair_weights(ranks, jnp.ones(n, bool))
        weights = jnp.triu(jnp.ones((n, n)), 1) if weights is None else jnp.asarray(weights)
        total = jax.vmap(lambda r: jnp.sum(weights * utility.value(r[:, None] - r[None, :])))
        rng = np.random.default_rng(0)
        others = [rng.random((50, n)), np.clip(found.rewards + 0.01 * rng.standard_normal((50, n)), 0, 1)]
        values = np.asarray(total(jnp.asarray(np.concatenate([[found.rewards], *others]))))
    assert values[0] == pytest.approx(found.objective, rel=1e-12)
    assert np.all(values[1:] <= values[0] + 1e-12 * abs(values[0]))
    assert found.kkt_residual < 1e-12


@pytest.mark.parametrize("n", [3, 7])
def test_under_linear_the_middle_of_an_odd_number_is_free(n):
    found = best_rewards(Linear(), n)
    assert found.rewards.tolist() == [1.0] * (n // 2) + [0.5] + [0.0] * (n // 2)
    assert not found.unique


def test_quantile_has_its_rewards_in_closed_form():
    utility, n = Quantile(a=2.0, b=5.0), 9
    p = 1.0 - (np.arange(1, n - 1) + 0.5) / n
    with jax.enable_x64(True):
        wanted = np.concatenate([[1.0], np.asarray(utility.quantile(jnp.asarray(p))), [0.0]])
    found = best_rewards(utility, n)
    np.testing.assert_allclose(found.rewards, wanted, atol=1e-12)
    assert found.kkt_residual < 1e-13
    # A tangent that begins below every wanted gap leaves them: here the solver has to find what the formula says.
    small = Quantile(a=2.0, b=5.0, epsilon=1e-3)
    np.testing.assert_allclose(best_rewards(small, n, trained=True).rewards, wanted, atol=1e-10)


def test_a_utility_of_ones_own_is_told_by_its_slope_not_by_its_class():
    class Root(Utility):
        def raw(self, x):
            return jnp.sqrt(x)

    class Decay(Utility):
        def raw(self, x):
            return 1.0 - jnp.exp(-x / 0.25)

    np.testing.assert_allclose(best_rewards(Root(), 8).tails, best_rewards(Power(gamma=0.5), 8).tails, rtol=1e-10)
    np.testing.assert_allclose(best_rewards(Decay(), 8).rewards, best_rewards(Exponential(), 8).rewards, atol=1e-12)


def test_what_is_not_a_concave_increasing_utility_is_refused():
    class Square(Utility):
        def raw(self, x):
            return x**2

    class Falling(Utility):
        def raw(self, x):
            return -x

    with pytest.raises(ValueError, match="not concave"):
        best_rewards(Square(), 5)
    with pytest.raises(ValueError, match="does not increase"):
        best_rewards(Falling(), 5)


@pytest.mark.parametrize("utility", [NegativePower(gamma=1.0), LogSigmoid(sigma=0.05)], ids=repr)
def test_a_thousand_responses(utility):
    found = best_rewards(utility, 1000)
    assert found.kkt_residual < 1e-11
    assert np.all(np.diff(found.rewards) <= 0)
    assert found.iterations < 40
    np.testing.assert_allclose(found.rewards + found.rewards[::-1], 1.0, atol=1e-15)


def test_a_prompt_type_gets_the_optimum_of_its_own_utility():
    found = best_rewards_by_type({"open": Log(), "closed": Linear()}, 8)
    np.testing.assert_array_equal(found["open"].rewards, best_rewards(Log(), 8).rewards)
    assert found["closed"].rewards.tolist() == [1.0] * 4 + [0.0] * 4
