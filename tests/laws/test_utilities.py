"""What every utility has to obey, over the whole family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import (
    FAMILY,
    Exponential,
    LimitLaw,
    Linear,
    Log,
    LogSigmoid,
    NegativePower,
    Power,
    Quantile,
    Utility,
    load_member,
    make_utility,
    unit_range,
)
from rlhf_jax.theory.limits import wasserstein_1
from rlhf_jax.theory.optimum import best_rewards

EXTENDED = [
    (extension, epsilon)
    for extension, epsilon in (("tangent", 0.1), ("tangent", 1e-3), ("shift", 0.1), ("shift", 1e-2))
]
ALL_UTILITIES: list[Utility] = [
    *(Power(gamma=g, extension=x, epsilon=e) for g in (0.2, 0.5, 0.8, 1.0) for x, e in EXTENDED),
    *(NegativePower(gamma=g, extension=x, epsilon=e) for g in (0.2, 0.5, 1.0, 2.0, 3.0) for x, e in EXTENDED),
    *(Log(extension=x, epsilon=e) for x, e in EXTENDED),
    *(LogSigmoid(sigma=s) for s in (0.1, 0.25, 1.0, 4.0)),
    Linear(),
    *(Exponential(sigma=s, extension=x, epsilon=e) for s in (0.1, 0.25, 4.0) for x, e in EXTENDED),
    *(Quantile(extension=x, epsilon=e) for x, e in EXTENDED),
]
every_utility = pytest.mark.parametrize("utility", ALL_UTILITIES, ids=repr)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def knee(utility: Utility) -> float:
    """The gap at which the continuation begins, as the description of the two forms has it."""
    if isinstance(utility, Exponential):  # its slope at 0 is finite: nothing is cut off
        return 0.0
    return utility.epsilon if utility.extension == "tangent" and utility.needs_extension else 0.0


def gaps(utility: Utility) -> np.ndarray:
    """From wrong by the whole range to right by it, dense around the knee, without the knee itself."""
    around = knee(utility) + utility.epsilon * np.array([-0.5, -0.1, -1e-3, 1e-3, 0.1, 0.5])
    return np.sort(np.concatenate([np.linspace(-1.0, 1.0, 82), around]))


def test_every_member_is_under_the_laws():
    assert {type(utility) for utility in ALL_UTILITIES} == set(FAMILY.values())


@every_utility
def test_increasing(utility):
    value = np.asarray(utility.value(jnp.asarray(gaps(utility))))
    assert np.all(np.diff(value) > 0)


@every_utility
def test_concave(utility):
    x = gaps(utility)
    chords = np.diff(np.asarray(utility.value(jnp.asarray(x)))) / np.diff(x)
    assert np.all(np.diff(chords) <= 1e-7 * np.abs(chords[:-1]))


@every_utility
def test_continuous_with_its_slope_across_the_knee(utility):
    at, step = knee(utility), 1e-6 * utility.epsilon
    below, here, above = (float(v) for v in utility.value(jnp.array([at - step, at, at + step])))
    slope = float(utility.slope(jnp.array(at)))
    assert (above - here) / step == pytest.approx(slope, rel=1e-4)
    assert (here - below) / step == pytest.approx(slope, rel=1e-4)


@every_utility
def test_slope_is_the_derivative_of_value(utility):
    x = np.concatenate([gaps(utility), [-50.0, knee(utility), 0.0]])
    gradient = jax.vmap(jax.grad(utility.value))(jnp.asarray(x))
    np.testing.assert_allclose(utility.slope(jnp.asarray(x)), gradient, rtol=1e-10, atol=1e-300)
    # Neither may be trusted alone: differences of the values.
    step = 1e-5 * utility.epsilon
    inside = gaps(utility)
    differences = (utility.value(jnp.asarray(inside + step)) - utility.value(jnp.asarray(inside - step))) / (2 * step)
    np.testing.assert_allclose(differences, utility.slope(jnp.asarray(inside)), rtol=1e-4, atol=1e-7)


@every_utility
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite_in_low_precision(utility, dtype):
    reach = 1.0 if utility.needs_bounded_rewards else 50.0
    around = [-1e-30, 0.0, 1e-30, 1e-4, 1e-3, 1e-2, 0.1, -1e-3, -reach, reach]
    x = jnp.asarray(np.concatenate([np.linspace(-reach, reach, 101), around]), dtype)
    value, slope, gradient = utility.value(x), utility.slope(x), jax.vmap(jax.grad(utility.value))(x)
    for array in (value, slope, gradient):
        assert array.dtype == dtype
        assert np.all(np.isfinite(np.asarray(array, np.float64)))


@pytest.mark.parametrize("gamma", [1e-2, 1e-4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_log_is_the_limit_between_the_powers(gamma, sign):
    # |((x^g - 1) / g) - log x| <= g log(x)^2 / 2 for x <= 1, and the same for (1 - x^-g) / g up to x^-g.
    x = jnp.asarray(np.linspace(0.05, 1.0, 20))
    member = Power(gamma=gamma, epsilon=0.01) if sign > 0 else NegativePower(gamma=gamma, epsilon=0.01)
    limit = (member.value(x) - sign) / gamma
    bound = gamma * np.log(x) ** 2 / 2 * 0.05**-gamma + 1e-10
    assert np.all(np.abs(limit - Log(epsilon=0.01).value(x)) <= bound)


def test_linear_is_the_power_of_one():
    x = jnp.asarray(np.linspace(-1.0, 1.0, 21))
    np.testing.assert_allclose(Power(gamma=1.0).value(x), x, atol=1e-15)
    np.testing.assert_array_equal(Linear().value(x), x)
    np.testing.assert_array_equal(Linear().slope(x), np.ones(21))


def test_members_inside_their_domain_by_hand():
    # 0.25^.5 = .5, slope .5 / .5 = 1;  -0.25^-.5 = -2, slope .5 * 8 = 4;  log .25, slope 4;
    # log sigmoid(.25 / .25) = -log(1 + e^-1), slope sigmoid(-1) / .25
    x = jnp.array(0.25)
    for utility, value, slope in (
        (Power(gamma=0.5), 0.5, 1.0),
        (NegativePower(gamma=0.5), -2.0, 4.0),
        (Log(), np.log(0.25), 4.0),
        (LogSigmoid(sigma=0.25), -np.log1p(np.exp(-1.0)), 4.0 / (1.0 + np.e)),
    ):
        assert float(utility.value(x)) == pytest.approx(value, rel=1e-12)
        assert float(utility.slope(x)) == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize(
    ("utility", "right", "slope"),
    [
        (Log(extension="shift", epsilon=0.1), lambda x: np.log(x + 0.1) - np.log(0.1), 10.0),
        (NegativePower(gamma=1.0, extension="shift", epsilon=0.1), lambda x: 10.0 - 1.0 / (x + 0.1), 100.0),
    ],
    ids=["log", "inverse"],
)
def test_shift_is_the_form_of_the_released_experiment(utility, right, slope):
    # There U(0) = 0: the right branch for x > 0, a straight line of the slope at 0 for x <= 0.
    x = np.linspace(-1.0, 1.0, 41)
    ours = utility.value(jnp.asarray(x)) - utility.value(jnp.array(0.0))
    np.testing.assert_allclose(ours, np.where(x > 0, right(np.maximum(x, 0)), slope * x), rtol=1e-12, atol=1e-12)
    assert float(utility.slope(jnp.array(0.0))) == pytest.approx(slope, rel=1e-12)


def test_tangent_leaves_the_utility_alone_above_epsilon():
    x = np.linspace(0.1, 1.0, 10)
    np.testing.assert_allclose(Log(epsilon=0.1).value(jnp.asarray(x)), np.log(x), rtol=1e-14)
    # Below: log .1 + (x - .1) / .1, at x = -.4: log .1 - 5.
    assert float(Log(epsilon=0.1).value(jnp.array(-0.4))) == pytest.approx(np.log(0.1) - 5.0, rel=1e-14)


def test_the_range_over_ordered_gaps_by_hand():
    assert unit_range(Linear()) == pytest.approx(1.0)
    # shift: log 1.1 - log .1 and 10 - 1 / 1.1;  tangent: 0 - (log .1 - 1)
    assert unit_range(Log(extension="shift", epsilon=0.1)) == pytest.approx(np.log(11.0))
    assert unit_range(NegativePower(gamma=1.0, extension="shift", epsilon=0.1)) == pytest.approx(10.0 - 1.0 / 1.1)
    assert unit_range(Log(epsilon=0.1)) == pytest.approx(1.0 - np.log(0.1))


def test_make_utility_takes_what_the_member_has():
    assert make_utility("power", gamma=0.3, sigma=2.0, epsilon=0.2) == Power(gamma=0.3, epsilon=0.2)
    assert make_utility("log_sigmoid", gamma=0.3, sigma=2.0) == LogSigmoid(sigma=2.0)
    with pytest.raises(KeyError):
        make_utility("quadratic")


@every_utility
def test_curvature_is_the_derivative_of_slope(utility):
    x = jnp.asarray(gaps(utility))  # without the knee, where it jumps
    np.testing.assert_allclose(
        utility.curvature(x), jax.vmap(jax.grad(utility.slope))(x), rtol=1e-10, atol=1e-300, err_msg=repr(utility)
    )


LISTS = [  # one with every parameter and form is under the laws above; the list adds only sums
    Power(),
    NegativePower(gamma=2.0),
    Log(extension="shift"),
    LogSigmoid(sigma=0.25),
    Linear(),
    Exponential(),
    Quantile(a=2.0, b=5.0),
]
every_list = pytest.mark.parametrize("utility", LISTS, ids=repr)
RANKS = np.array([2, 0, 1, 1, 3, 0])
MASK = np.array([True, True, True, True, True, False])


def list_loss(utility, rewards, ranks=RANKS, mask=MASK):
    return ranked_utility_loss(
        rewards=jnp.asarray(rewards), ranks=jnp.asarray(ranks), mask=jnp.asarray(mask), utility=utility
    )


@every_list
def test_a_list_is_the_double_loop_over_its_pairs(utility):
    rewards = np.random.default_rng(0).random(6)
    weights = utility.pair_weights(jnp.asarray(RANKS), jnp.asarray(MASK))
    total, pairs = 0.0, 0
    for i in range(6):
        for j in range(6):
            if MASK[i] and MASK[j] and RANKS[i] < RANKS[j]:
                weight = 1.0 if weights is None else float(weights[i, j])
                total += weight * float(utility.value(jnp.asarray(rewards[i] - rewards[j])))
                pairs += 1
    assert float(list_loss(utility, rewards)) == pytest.approx(-total / pairs, rel=1e-12)


@every_list
def test_a_list_of_two_is_the_pair_loss(utility):
    loss = list_loss(utility, [0.3, 0.8], np.array([1, 0]), np.array([True, True]))
    assert float(loss) == pytest.approx(-float(utility.value(jnp.asarray(0.5))), rel=1e-12)


@every_list
def test_ties_and_missing_responses_contribute_nothing(utility):
    assert float(list_loss(utility, [0.3, 0.8, 0.1], np.zeros(3, int), np.ones(3, bool))) == 0.0
    with_missing = list_loss(utility, [0.9, 0.2, np.nan], np.array([0, 1, 0]), np.array([True, True, False]))
    assert float(with_missing) == float(list_loss(utility, [0.9, 0.2], np.array([0, 1]), np.ones(2, bool)))
    # Two of one tier: the sum is that of each against the others, none of one against the other.
    gradient = jax.grad(lambda r: list_loss(utility, r, np.array([0, 1, 1]), np.ones(3, bool)))(
        jnp.array([0.9, 0.5, 0.5])
    )
    assert float(gradient[1]) == pytest.approx(float(gradient[2]), rel=1e-12)


@every_list
def test_a_common_shift_changes_nothing(utility):
    rewards = np.random.default_rng(1).random(6)
    assert float(list_loss(utility, rewards + 3.0)) == pytest.approx(float(list_loss(utility, rewards)), rel=1e-10)
    gradient = jax.grad(lambda r: list_loss(utility, r))(jnp.asarray(rewards))
    assert float(jnp.sum(gradient)) == pytest.approx(0.0, abs=1e-9 * float(jnp.sum(jnp.abs(gradient))))


@every_list
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_list_is_finite_in_low_precision(utility, dtype):
    for rewards in (np.zeros(6), RANKS / 3.0, 1.0 - RANKS / 3.0, np.full(6, 1e-4)):
        loss, gradient = jax.value_and_grad(lambda r: list_loss(utility, r))(jnp.asarray(rewards, dtype))
        assert np.isfinite(float(loss))
        assert np.all(np.isfinite(np.asarray(gradient, np.float64)))


@pytest.mark.parametrize(
    ("utility", "wrong"),
    [
        (Power(gamma=0.2), LimitLaw(0.5, 0.5)),
        (Power(gamma=0.8), LimitLaw(0.25, 0.25)),
        (Log(), LimitLaw(0.4, 0.4)),
        (NegativePower(gamma=0.5), LimitLaw(0.5, 0.5)),
        (NegativePower(gamma=1.0), LimitLaw(0.75, 0.75)),
        (NegativePower(gamma=2.0), LimitLaw(1.5, 1.5)),  # (1 + gamma) / 2 goes on only up to gamma = 1
        (Linear(), LimitLaw(atom=0.4)),
        (Exponential(sigma=0.25), LimitLaw(atom=0.2)),
        (Quantile(a=2.0, b=5.0), LimitLaw(5.0, 2.0)),
    ],
    ids=repr,
)
def test_best_rewards_come_to_the_declared_law(utility, wrong):
    law = utility.limit_law()
    few, many = (best_rewards(utility, n).rewards for n in (30, 120))
    distance = wasserstein_1(many, law)
    assert distance < 0.015
    assert distance <= wasserstein_1(few, law)
    assert distance < wasserstein_1(many, wrong)


def test_a_member_of_ones_own_obeys_the_laws_with_raw_alone(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nimport jax.numpy as jnp\nfrom rlhf_jax.objectives.utilities import Utility\n\n\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine(Utility):\n    power: float = 0.5\n\n"
        "    def raw(self, x):\n        return x**self.power + jnp.log(x)\n"
    )
    for extension, epsilon in EXTENDED:
        mine = make_utility(f"{path}:Mine", extension=extension, epsilon=epsilon)
        test_increasing(mine)
        test_concave(mine)
        test_continuous_with_its_slope_across_the_knee(mine)
        test_slope_is_the_derivative_of_value(mine)
        test_curvature_is_the_derivative_of_slope(mine)
        for dtype in ("float32", "bfloat16"):
            test_finite_in_low_precision(mine, dtype)
    with pytest.raises(ValueError, match="no such file"):
        load_member(f"{tmp_path}/other.py:Mine")
    with pytest.raises(ValueError, match="defines no class"):
        load_member(f"{path}:Other")
