"""What every divergence has to obey, over the whole family."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import lambertw

from rlhf_jax.objectives.divergences import (
    ALL_DIVERGENCES,
    DIVERGENCES,
    Alpha,
    ChiPO,
    ChiSquared,
    Divergence,
    ForwardKL,
    HalfChiSquared,
    JensenShannon,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    largest_exponent,
    make_divergence,
)

every_divergence = pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
RATIOS = np.concatenate([np.geomspace(1e-4, 0.9, 20), [1.0], np.geomspace(1.1, 1e3, 20)])
LOGS = np.log(RATIOS)
LAWS = np.random.default_rng(0).dirichlet(np.ones(6), size=(50, 2))  # pairs of laws, positive almost surely


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def between(divergence, pi, ref):
    """D_f(pi || ref), by the definition."""
    return np.asarray(jnp.sum(ref * divergence.value(jnp.asarray(pi / ref)), axis=-1))


@every_divergence
def test_zero_of_a_law_to_itself_and_positive_else(divergence):
    assert float(divergence.value(jnp.ones(()))) == 0.0
    pi, ref = LAWS[:, 0], LAWS[:, 1]
    assert np.all(between(divergence, pi, ref) > 1e-4)
    np.testing.assert_allclose(between(divergence, ref, ref), 0.0, atol=1e-15)


@every_divergence
def test_convex(divergence):
    """The middle of any two ratios costs no more than their mean, and D_f is convex in both laws jointly."""
    u, v = np.meshgrid(RATIOS, RATIOS)
    chord = 0.5 * (divergence.value(jnp.asarray(u)) + divergence.value(jnp.asarray(v)))
    middle = divergence.value(jnp.asarray(0.5 * (u + v)))
    assert np.all(middle <= chord + 1e-12 * (1.0 + np.abs(chord)))
    if divergence.strictly_convex:
        apart = np.abs(np.log(u / v)) > 0.1
        assert np.all((middle < chord)[apart])
    pairs, others = LAWS[:25], LAWS[25:]
    mixed = between(divergence, *np.moveaxis(0.3 * pairs + 0.7 * others, 1, 0))
    ends = 0.3 * between(divergence, *np.moveaxis(pairs, 1, 0)) + 0.7 * between(divergence, *np.moveaxis(others, 1, 0))
    assert np.all(mixed <= ends + 1e-12)


@every_divergence
def test_the_slope_is_the_derivative_of_the_value_and_rises(divergence):
    away = RATIOS[RATIOS != 1.0] if divergence == TotalVariation() else RATIOS
    derivative = jax.vmap(jax.grad(divergence.value))(jnp.asarray(away))
    np.testing.assert_allclose(divergence.slope(jnp.asarray(away)), derivative, rtol=1e-9, atol=1e-11)
    assert np.all(np.diff(divergence.slope(jnp.asarray(RATIOS))) >= 0)
    assert float(divergence.slope(jnp.ones(()))) == divergence.slope_at_one


@every_divergence
def test_the_ends_of_the_slope(divergence):
    near, far = float(divergence.slope(jnp.asarray(1e-12))), float(divergence.slope(jnp.asarray(1e12)))
    if divergence.sparse:
        assert near == pytest.approx(divergence.slope_at_zero, abs=1e-10)
    else:
        assert near < -14.0
    if divergence.slope_supremum < math.inf:
        # Of alpha = 0.05 a quarter is still missing at a ratio of 1e12: u^-alpha.
        assert 0.7 * divergence.slope_supremum - 1e-5 <= far <= divergence.slope_supremum
    else:
        assert far > 14.0
    assert float(divergence.inverse_slope(jnp.asarray(divergence.slope_at_zero - 1.0))) == 0.0
    if divergence.slope_supremum < math.inf:
        assert float(divergence.inverse_slope(jnp.asarray(divergence.slope_supremum + 1e-9))) == math.inf


@every_divergence
def test_the_inverse_of_the_slope(divergence):
    if divergence.strictly_convex:
        moderate = RATIOS[RATIOS < 50.0]
        z = divergence.slope(jnp.asarray(moderate))
        np.testing.assert_allclose(divergence.inverse_slope(z), moderate, rtol=1e-9)
        inside = jnp.linspace(max(divergence.slope_at_zero, -20.0), min(divergence.slope_supremum, 20.0), 41)[1:-1]
        np.testing.assert_allclose(divergence.slope(divergence.inverse_slope(inside)), inside, rtol=1e-9, atol=1e-9)
    else:  # any subgradient: -1/2 <= z <= 1/2 is one at u = 1
        z = jnp.array([-0.6, -0.5, -0.2, 0.0, 0.5, 0.6])
        assert divergence.inverse_slope(z).tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, math.inf]


@every_divergence
def test_in_logarithms_the_same(divergence):
    u, l = jnp.asarray(RATIOS), jnp.asarray(LOGS)  # noqa: E741
    np.testing.assert_allclose(divergence.value_of_log(l), divergence.value(u), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(divergence.per_sample(l), divergence.value(u) / u, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(divergence.slope_of_log(l), divergence.slope(u), rtol=1e-9, atol=1e-11)
    centred = divergence.slope(u) - divergence.slope_at_one
    np.testing.assert_allclose(divergence.centred_slope_of_log(l), centred, rtol=1e-9, atol=1e-11)
    # Autograd through an estimate, which the loss does: u d/du [f(u) / u] = f'(u) - f(u) / u.
    if divergence != TotalVariation():
        derivative = jax.vmap(jax.grad(divergence.per_sample))(l)
        np.testing.assert_allclose(derivative, divergence.slope(u) - divergence.value(u) / u, rtol=1e-8, atol=1e-10)


@every_divergence
def test_close_to_one_the_logarithms_lose_nothing(divergence):
    """f is f'(1) (u - 1) + f''(1) (u - 1)^2 / 2 there, and u - 1 itself is known from l alone."""
    l = np.array([-1e-7, 1e-7])  # noqa: E741
    centred = np.asarray(divergence.centred_slope_of_log(jnp.asarray(l)))
    curvature = {"chi_squared": 2.0, "chi_po": 2.0, "jensen_shannon": 0.5, "hellinger": 0.5}.get(divergence.name, 1.0)
    if divergence.strictly_convex:
        np.testing.assert_allclose(centred, curvature * l, rtol=1e-6, atol=1e-15)


@every_divergence
def test_what_is_paid_of_samples_has_the_mean_of_the_divergence(divergence):
    pi, ref = LAWS[:, 0], LAWS[:, 1]
    paid = np.asarray(divergence.per_sample(jnp.asarray(np.log(pi / ref))))
    np.testing.assert_allclose(np.sum(pi * paid, axis=1), between(divergence, pi, ref), rtol=1e-10)


@every_divergence
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite_in_low_precision(divergence, dtype):
    l = jnp.array([-3000.0, -100.0, -60.0, -1.0, 0.0, 1.0, 60.0, 100.0, 3000.0], dtype)  # noqa: E741
    for function in (
        divergence.value_of_log,
        divergence.slope_of_log,
        divergence.centred_slope_of_log,
        divergence.per_sample,
    ):
        values, slopes = jax.vmap(jax.value_and_grad(function))(l)
        assert values.dtype == dtype
        assert np.all(np.isfinite(np.asarray(values, float)))
        assert np.all(np.isfinite(np.asarray(slopes, float)))
    for z in (-50.0, -1.0, -0.1):
        assert np.isfinite(float(divergence.inverse_slope(jnp.asarray(z, dtype))))


@every_divergence
def test_exact_in_float32_at_sixty_nats(divergence):
    """Where float32 holds the number at all."""
    l = np.array([-60.0, -20.0, 20.0, 60.0])  # noqa: E741
    limit = 0.8 * np.log(float(np.finfo(np.float32).max))
    assert largest_exponent(jnp.zeros((), jnp.float32)) == pytest.approx(limit)
    for function in (divergence.value_of_log, divergence.slope_of_log, divergence.per_sample):
        exact = np.asarray(function(jnp.asarray(l)))
        held = np.abs(exact) < np.exp(limit)
        rough = np.asarray(function(jnp.asarray(l, jnp.float32)))
        np.testing.assert_allclose(rough[held], exact[held], rtol=2e-5)
        assert np.all(rough[~held] > np.exp(0.9 * limit))


def test_alpha_leads_from_the_reverse_to_the_forward_kl():
    pi, ref = LAWS[:, 0], LAWS[:, 1]
    small, large = Alpha(alpha=1e-6), Alpha(alpha=1 - 1e-6)
    np.testing.assert_allclose(between(small, pi, ref), between(ReverseKL(), pi, ref), rtol=1e-3)
    np.testing.assert_allclose(between(large, pi, ref), between(ForwardKL(), pi, ref), rtol=1e-3)
    u = jnp.asarray(RATIOS)
    np.testing.assert_allclose(small.slope(u) + 1.0, ReverseKL().slope(u), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(large.slope(u) - 1.0, ForwardKL().slope(u), rtol=1e-3)
    np.testing.assert_allclose(between(Alpha(alpha=0.5), pi, ref), 2.0 * between(SquaredHellinger(), pi, ref))


def test_known_sums():
    pi, ref = LAWS[:, 0], LAWS[:, 1]
    np.testing.assert_allclose(between(ReverseKL(), pi, ref), np.sum(pi * np.log(pi / ref), axis=1))
    np.testing.assert_allclose(between(ForwardKL(), pi, ref), np.sum(ref * np.log(ref / pi), axis=1))
    np.testing.assert_allclose(between(JensenShannon(), pi, ref), 2.0 * jensenshannon(pi, ref, axis=1) ** 2)
    np.testing.assert_allclose(between(ChiSquared(), pi, ref), np.sum(pi**2 / ref, axis=1) - 1.0)
    np.testing.assert_allclose(between(HalfChiSquared(), pi, ref), 0.5 * between(ChiSquared(), pi, ref))
    np.testing.assert_allclose(
        between(ChiPO(), pi, ref), between(HalfChiSquared(), pi, ref) + between(ReverseKL(), pi, ref)
    )
    np.testing.assert_allclose(between(SquaredHellinger(), pi, ref), 2.0 - 2.0 * np.sum(np.sqrt(pi * ref), axis=1))
    np.testing.assert_allclose(between(TotalVariation(), pi, ref), 0.5 * np.sum(np.abs(pi - ref), axis=1))
    # Two laws that share nothing are as far apart as can be.
    apart = {TotalVariation(): 1.0, SquaredHellinger(): 2.0, JensenShannon(): 2.0 * math.log(2.0)}
    pi, ref = np.array([1.0 - 1e-12, 1e-12]), np.array([1e-12, 1.0 - 1e-12])
    for divergence, bound in apart.items():
        assert float(between(divergence, pi, ref)) == pytest.approx(bound, abs=1e-5)


def test_zero_ratios_cost_what_f_says():
    at_zero = {
        ReverseKL(): 0.0,
        ForwardKL(): math.inf,
        JensenShannon(): math.log(2.0),
        Alpha(alpha=0.5): 2.0,
        ChiSquared(): 1.0,
        HalfChiSquared(): 0.5,
        ChiPO(): 0.5,
        SquaredHellinger(): 1.0,
        TotalVariation(): 0.5,
    }
    for divergence, value in at_zero.items():
        assert float(divergence.value(jnp.zeros(()))) == pytest.approx(value)


def test_lambert_against_scipy():
    z = np.linspace(-30.0, 700.0, 731)
    ours = ChiPO().inverse_slope(jnp.asarray(z))
    np.testing.assert_allclose(ours, lambertw(np.exp(z)).real, rtol=1e-14)
    low = ChiPO().inverse_slope(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(low, lambertw(np.exp(z)).real, rtol=3e-6)


def test_which_permit_direct_preference_optimisation():
    permitted = {name for name in DIVERGENCES if make_divergence(name).permits_direct}
    assert permitted == set(DIVERGENCES) - {"chi_squared", "half_chi_squared", "total_variation"}
    assert {d.name for d in ALL_DIVERGENCES if d.sparse} == {"chi_squared", "half_chi_squared", "total_variation"}


def test_make_divergence():
    assert list(DIVERGENCES) == [
        "reverse_kl",
        "forward_kl",
        "jensen_shannon",
        "alpha",
        "chi_squared",
        "half_chi_squared",
        "chi_po",
        "hellinger",
        "total_variation",
    ]
    assert make_divergence("alpha", 0.2) == Alpha(alpha=0.2)
    assert make_divergence("hellinger", 0.2) == SquaredHellinger()
    with pytest.raises(KeyError):
        make_divergence("wasserstein")
    for alpha in (0.0, 1.0, -0.5, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            make_divergence("alpha", alpha)


@dataclasses.dataclass(frozen=True)
class Cubic(Divergence):
    """u^3 / 6 - u / 2 + 1 / 3: f'(1) = 0, f''(1) = 1, and f grows faster than u^2."""

    def value(self, u):
        return u**3 / 6.0 - u / 2.0 + 1.0 / 3.0

    @property
    def slope_at_zero(self):
        return -0.5


@dataclasses.dataclass(frozen=True)
class Own(Divergence):
    """(u - 1)^2 / 2 + u log u once more, by its value alone."""

    @property
    def slope_at_one(self):
        return 1.0

    def value(self, u):
        return 0.5 * (u - 1.0) ** 2 + u * jnp.log(u)


def test_a_member_of_ones_own_needs_its_value_alone():
    """And is then what the member of the same f is, whose functions are worked out by hand."""
    u, l = jnp.asarray(RATIOS), jnp.asarray(LOGS)  # noqa: E741
    for name, argument in (
        *((name, u) for name in ("value", "slope")),
        *((name, l) for name in ("value_of_log", "slope_of_log", "centred_slope_of_log", "per_sample")),
    ):
        ours, theirs = (getattr(one, name)(argument) for one in (Own(), ChiPO()))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11, err_msg=name)
    test_in_logarithms_the_same(Own())
    for dtype in ("float32", "bfloat16"):
        l = jnp.array([-3000.0, -60.0, -1.0, 0.0, 1.0, 60.0, 3000.0], dtype)  # noqa: E741
        for function in (Own().value_of_log, Own().slope_of_log, Own().per_sample):
            values, slopes = jax.vmap(jax.value_and_grad(function))(l)
            assert np.all(np.isfinite(np.asarray(values, float)))
            assert np.all(np.isfinite(np.asarray(slopes, float)))
    np.testing.assert_allclose(Cubic().slope(u), (u**2 - 1.0) / 2.0, rtol=1e-12, atol=1e-12)
    with pytest.raises(NotImplementedError, match="defines no value"):
        Divergence().value(jnp.ones(()))


def test_a_member_of_ones_own_is_read_from_its_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom rlhf_jax.objectives.divergences import Divergence\n\n\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine(Divergence):\n    alpha: float = 2.0\n\n"
        "    def value(self, u):\n        return self.alpha * (u - 1.0) ** 2\n"
    )
    made = make_divergence(f"{tmp_path}/mine.py:Mine", 0.25)
    np.testing.assert_allclose(made.value(jnp.asarray(3.0)), 1.0)
    with pytest.raises(ValueError, match="no such file"):
        make_divergence(f"{tmp_path}/other.py:Mine")
    with pytest.raises(ValueError, match=r"defines no class Other derived from rlhf_jax\.objectives\.divergences"):
        make_divergence(f"{tmp_path}/mine.py:Other")
