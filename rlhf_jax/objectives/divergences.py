"""The family of f-divergences: how far a policy pi is from its reference, D_f(pi || ref) = E_ref f(u), u = pi / ref.

f is convex on u > 0 with f(1) = 0, so that D_f >= 0, and 0 for pi = ref. A multiple of u - 1 added to f changes no
divergence; each member has the form of its source. The best policy under a reward r at the price beta of D_f is
u(y) = (f')^-1((r(y) - lambda) / beta), which makes the inverse of the slope f' the heart of a member; and what is paid
of a sampled token is f(u) / u, whose mean under pi is D_f.

Policies are known by their log-probabilities, so each member also speaks of log u (nats), exactly where that is
small. An exponent above ``largest_exponent`` counts as that, 71 in float32 and bfloat16 (TRL: 80) and 567 in float64,
and its gradient there is 0: values are exact below the clamp and finite for every log u of some thousands of nats.

A member of one's own is a frozen dataclass that derives from ``Divergence`` and gives ``value``, and ``slope_at_one``
where that is not 0; the rest follows from these, clamped at half that exponent so that an f which grows like u^2 stays
finite, and with the rounding of f(u) near u = 1. Sources: Wang et al. 2023 (arXiv 2309.16240) for the first four,
Huang et al. 2024 (arXiv 2407.13399) for chi-PO; Csiszar 1967.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from rlhf_jax.objectives.members import elementwise_derivative, load_own

Ratio = Float[Array, "*S"]
LogRatio = Float[Array, "*S"]
Slope = Float[Array, "*S"]

LOG_2 = math.log(2.0)


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The contract of the family; every function is elementwise.

    ``slope_at_zero`` is f'(0+), ``slope_supremum`` the supremum of f'; between them ``inverse_slope`` is positive and
    finite. ``slope_at_one`` is f'(1). Where f'(0+) is finite the best policy may leave responses out (``sparse``).
    ``strictly_convex`` is False where f' jumps, and then ``slope`` is a subgradient.
    """

    name: ClassVar[str] = ""
    strictly_convex: ClassVar[bool] = True

    @property
    def slope_at_zero(self) -> float:
        return -math.inf

    @property
    def slope_at_one(self) -> float:
        return 0.0

    @property
    def slope_supremum(self) -> float:
        return math.inf

    @property
    def sparse(self) -> bool:
        """Whether the best policy may give up responses that the reference has."""
        return self.slope_at_zero > -math.inf

    @property
    def permits_direct(self) -> bool:
        """Whether a best policy tells its reward, as f-DPO needs: f' has an inverse and falls without bound at 0."""
        return self.strictly_convex and not self.sparse

    def value(self, u: Ratio) -> Ratio:
        """f(u) for u >= 0; infinite where it is."""
        raise NotImplementedError(f"{type(self).__name__} defines no value(u)")

    def slope(self, u: Ratio) -> Slope:
        """f'(u) for u > 0."""
        return elementwise_derivative(self.value)(u)

    def inverse_slope(self, z: Slope) -> Ratio:
        """The u with f'(u) = z: 0 for z <= ``slope_at_zero``, infinite for z >= ``slope_supremum``."""
        raise NotImplementedError(f"{type(self).__name__} defines no inverse_slope(z)")

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        """f(e^l)."""
        return self.value(_half_clamped_exp(log_u))

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        """f'(e^l)."""
        return self.slope(_half_clamped_exp(log_u))

    def centred_slope_of_log(self, log_u: LogRatio) -> Slope:
        """f'(e^l) - f'(1); members with f'(1) other than 0 give it without that difference."""
        return self.slope_of_log(log_u) - self.slope_at_one

    def per_sample(self, log_u: LogRatio) -> Ratio:
        """f(u) / u at u = e^l, whose mean over samples of pi is D_f."""
        u = _half_clamped_exp(log_u)
        return self.value(u) / u


def largest_exponent(x: Float[Array, "*S"]) -> float:
    """The largest exponent that is told from larger ones: 0.8 of what the type of x can hold."""
    return 0.8 * math.log(float(jnp.finfo(x.dtype).max))


def clamped_exp(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """e^x, an exponent above ``largest_exponent`` counting as that."""
    return jnp.exp(jnp.minimum(x, largest_exponent(x)))


def clamped_expm1(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """e^x - 1, likewise."""
    return jnp.expm1(jnp.minimum(x, largest_exponent(x)))


def _half_clamped_exp(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    most = 0.5 * largest_exponent(x)
    return jnp.exp(jnp.clip(x, -most, most))


def _expm1_squared(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    return jnp.square(jnp.expm1(jnp.minimum(x, 0.5 * largest_exponent(x))))


def _below(z: Slope, supremum: float) -> Slope:
    """z where it is below the supremum, else a number below it: the branch that is not taken has to be finite."""
    return jnp.where(z < supremum, z, supremum - 1.0)


@dataclasses.dataclass(frozen=True)
class ReverseKL(Divergence):
    """u log u: KL(pi || ref), the penalty of RLHF; the best policy is ref e^{r / beta} / Z."""

    name: ClassVar[str] = "reverse_kl"

    @property
    def slope_at_one(self) -> float:
        return 1.0

    def value(self, u: Ratio) -> Ratio:
        return xlogy(u, u)

    def slope(self, u: Ratio) -> Slope:
        return jnp.log(u) + 1.0

    def inverse_slope(self, z: Slope) -> Ratio:
        return jnp.exp(z - 1.0)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        return log_u * clamped_exp(log_u)

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return log_u + 1.0

    def centred_slope_of_log(self, log_u: LogRatio) -> Slope:
        return log_u

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return log_u


@dataclasses.dataclass(frozen=True)
class ForwardKL(Divergence):
    """-log u: KL(ref || pi). Infinite for a policy that gives up what the reference has."""

    name: ClassVar[str] = "forward_kl"

    @property
    def slope_at_one(self) -> float:
        return -1.0

    @property
    def slope_supremum(self) -> float:
        return 0.0

    def value(self, u: Ratio) -> Ratio:
        return -jnp.log(u)

    def slope(self, u: Ratio) -> Slope:
        return -1.0 / u

    def inverse_slope(self, z: Slope) -> Ratio:
        return jnp.where(z < 0.0, -1.0 / _below(z, 0.0), jnp.inf)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        return -log_u

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return -clamped_exp(-log_u)

    def centred_slope_of_log(self, log_u: LogRatio) -> Slope:
        return -clamped_expm1(-log_u)

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return -log_u * clamped_exp(-log_u)


@dataclasses.dataclass(frozen=True)
class JensenShannon(Divergence):
    """u log u - (u + 1) log((u + 1) / 2): twice the Jensen-Shannon divergence, at most 2 log 2."""

    name: ClassVar[str] = "jensen_shannon"

    @property
    def slope_supremum(self) -> float:
        return LOG_2

    def value(self, u: Ratio) -> Ratio:
        return xlogy(u, u) - (u + 1.0) * jnp.log((u + 1.0) / 2.0)

    def slope(self, u: Ratio) -> Slope:
        return jnp.log(2.0 * u / (1.0 + u))

    def inverse_slope(self, z: Slope) -> Ratio:
        # e^z / (2 - e^z) without the difference of two numbers near 2.
        return jnp.where(z < LOG_2, -0.5 * jnp.exp(z) / jnp.expm1(_below(z, LOG_2) - LOG_2), jnp.inf)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        # u (log u - log((u + 1) / 2)) is u log 2 less about 1 for a large u, where the second term is about l.
        return -clamped_exp(log_u) * (jax.nn.softplus(-log_u) - LOG_2) - (jax.nn.softplus(log_u) - LOG_2)

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return LOG_2 - jax.nn.softplus(-log_u)

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return -(jax.nn.softplus(-log_u) - LOG_2) - clamped_exp(-log_u) * (jax.nn.softplus(log_u) - LOG_2)


@dataclasses.dataclass(frozen=True)
class Alpha(Divergence):
    """(u^{1 - a} - (1 - a) u - a) / (a (a - 1)), 0 < a < 1: from the reverse KL (a -> 0) to the forward KL (a -> 1).

    TRL's coefficient of the alpha divergence is 1 - a.

    Raises:
      ValueError: alpha lies outside (0, 1).
    """

    alpha: float = 0.5
    name: ClassVar[str] = "alpha"

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha lies in (0, 1), not {self.alpha}")

    @property
    def slope_supremum(self) -> float:
        return 1.0 / self.alpha

    def value(self, u: Ratio) -> Ratio:
        a = self.alpha
        return (1.0 + (1.0 - a) * (u - 1.0) - u ** (1.0 - a)) / (a * (1.0 - a))

    def slope(self, u: Ratio) -> Slope:
        return -jnp.expm1(-self.alpha * jnp.log(u)) / self.alpha

    def inverse_slope(self, z: Slope) -> Ratio:
        inside = z < self.slope_supremum
        return jnp.where(inside, jnp.exp(-jnp.log1p(-self.alpha * jnp.where(inside, z, 0.0)) / self.alpha), jnp.inf)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        a = self.alpha
        return ((1.0 - a) * clamped_expm1(log_u) - clamped_expm1((1.0 - a) * log_u)) / (a * (1.0 - a))

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return -clamped_expm1(-self.alpha * log_u) / self.alpha

    def per_sample(self, log_u: LogRatio) -> Ratio:
        a = self.alpha
        return (a * clamped_expm1(-log_u) - clamped_expm1(-a * log_u)) / (a * (1.0 - a))


@dataclasses.dataclass(frozen=True)
class ChiSquared(Divergence):
    """(u - 1)^2: Pearson's chi-squared. The best policy is (1 + (r - lambda) / 2 beta)_+ times ref: sparse."""

    name: ClassVar[str] = "chi_squared"

    @property
    def slope_at_zero(self) -> float:
        return -2.0

    def value(self, u: Ratio) -> Ratio:
        return jnp.square(u - 1.0)

    def slope(self, u: Ratio) -> Slope:
        return 2.0 * (u - 1.0)

    def inverse_slope(self, z: Slope) -> Ratio:
        return jax.nn.relu(1.0 + 0.5 * z)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        return _expm1_squared(log_u)

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return 2.0 * clamped_expm1(log_u)

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return _chi_squared_per_sample(log_u)


@dataclasses.dataclass(frozen=True)
class HalfChiSquared(Divergence):
    """(u - 1)^2 / 2: chi-squared at half the price."""

    name: ClassVar[str] = "half_chi_squared"

    @property
    def slope_at_zero(self) -> float:
        return -1.0

    def value(self, u: Ratio) -> Ratio:
        return 0.5 * jnp.square(u - 1.0)

    def slope(self, u: Ratio) -> Slope:
        return u - 1.0

    def inverse_slope(self, z: Slope) -> Ratio:
        return jax.nn.relu(1.0 + z)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        return 0.5 * _expm1_squared(log_u)

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return clamped_expm1(log_u)

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return 0.5 * _chi_squared_per_sample(log_u)


@dataclasses.dataclass(frozen=True)
class ChiPO(Divergence):
    """(u - 1)^2 / 2 + u log u: the mix of chi-PO. It grows like chi-squared, and its best policy is nowhere 0."""

    name: ClassVar[str] = "chi_po"

    @property
    def slope_at_one(self) -> float:
        return 1.0

    def value(self, u: Ratio) -> Ratio:
        return 0.5 * jnp.square(u - 1.0) + xlogy(u, u)

    def slope(self, u: Ratio) -> Slope:
        return u + jnp.log(u)

    def inverse_slope(self, z: Slope) -> Ratio:
        return _lambert_of_exp(z)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        return 0.5 * _expm1_squared(log_u) + log_u * clamped_exp(log_u)

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return clamped_exp(log_u) + log_u

    def centred_slope_of_log(self, log_u: LogRatio) -> Slope:
        return clamped_expm1(log_u) + log_u

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return 0.5 * _chi_squared_per_sample(log_u) + log_u


@dataclasses.dataclass(frozen=True)
class SquaredHellinger(Divergence):
    """(sqrt(u) - 1)^2: the squared Hellinger distance without the factor 1/2, at most 2."""

    name: ClassVar[str] = "hellinger"

    @property
    def slope_supremum(self) -> float:
        return 1.0

    def value(self, u: Ratio) -> Ratio:
        return jnp.square(jnp.sqrt(u) - 1.0)

    def slope(self, u: Ratio) -> Slope:
        return 1.0 - jax.lax.rsqrt(u)

    def inverse_slope(self, z: Slope) -> Ratio:
        return jnp.where(z < 1.0, (1.0 - _below(z, 1.0)) ** -2.0, jnp.inf)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        return _expm1_squared(0.5 * log_u)

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return -clamped_expm1(-0.5 * log_u)

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return _expm1_squared(-0.5 * log_u)


@dataclasses.dataclass(frozen=True)
class TotalVariation(Divergence):
    """|u - 1| / 2: half the L1 distance, at most 1. Its slope is a subgradient, -1/2, 0 or 1/2 below, at and above 1.

    The inverse is any u between 0 and 1 at -1/2, and any above at 1/2; ``inverse_slope`` gives 1 at both.
    """

    name: ClassVar[str] = "total_variation"
    strictly_convex: ClassVar[bool] = False

    @property
    def slope_at_zero(self) -> float:
        return -0.5

    @property
    def slope_supremum(self) -> float:
        return 0.5

    def value(self, u: Ratio) -> Ratio:
        return 0.5 * jnp.abs(u - 1.0)

    def slope(self, u: Ratio) -> Slope:
        return 0.5 * jnp.sign(u - 1.0)

    def inverse_slope(self, z: Slope) -> Ratio:
        return jnp.where(z < -0.5, 0.0, jnp.where(z > 0.5, jnp.inf, 1.0)).astype(z.dtype)

    def value_of_log(self, log_u: LogRatio) -> Ratio:
        return 0.5 * jnp.abs(clamped_expm1(log_u))

    def slope_of_log(self, log_u: LogRatio) -> Slope:
        return 0.5 * jnp.sign(log_u)

    def per_sample(self, log_u: LogRatio) -> Ratio:
        return 0.5 * jnp.abs(clamped_expm1(-log_u))


def _chi_squared_per_sample(log_u: LogRatio) -> Ratio:
    """(u - 1)^2 / u = u - 2 + 1 / u = 4 sinh^2(l / 2)."""
    most = largest_exponent(log_u)
    return 4.0 * jnp.square(jnp.sinh(0.5 * jnp.clip(log_u, -most, most)))


def _lambert_of_exp(z: Slope) -> Ratio:
    """W(e^z), the u with u + log u = z, for every z: Newton's method for l + e^l = z, l = log u.

    From z, or from log z where z > 1, both above the root of a convex increasing function, the steps fall to it without
    overshooting; seven reach rounding in float64. Of l + u = z the smaller part is the exact one.
    """
    most = 0.5 * float(jnp.finfo(z.dtype).max)
    z = jnp.clip(z, -most, most)
    log_u = jnp.where(z > 1.0, jnp.log(jnp.maximum(z, 1.0)), z)
    for _ in range(8):
        u = jnp.exp(log_u)
        log_u = log_u - (log_u + u - z) / (1.0 + u)
    return jnp.where(z > 1.0, z - log_u, jnp.exp(log_u))


DIVERGENCES: dict[str, type[Divergence]] = {
    member.name: member
    for member in (
        ReverseKL,
        ForwardKL,
        JensenShannon,
        Alpha,
        ChiSquared,
        HalfChiSquared,
        ChiPO,
        SquaredHellinger,
        TotalVariation,
    )
}
# One of each, and the range of alpha: what the laws of the family are held against.
ALL_DIVERGENCES: tuple[Divergence, ...] = (
    *(member() for member in DIVERGENCES.values()),
    Alpha(alpha=0.05),
    Alpha(alpha=0.9),
)


def make_divergence(name: str, alpha: float = 0.5) -> Divergence:
    """The member ``name``, or ``path/to/file.py:ClassName`` of a user's own; ``alpha`` is used by one that has a field
    of that name, the member ``alpha`` among them.

    Raises:
      KeyError: no member has that name.
      ValueError: alpha lies outside (0, 1), or the file has no such class derived from ``Divergence``.
    """
    member = load_own(name, Divergence) if ":" in name else DIVERGENCES[name]
    takes_alpha = any(field.name == "alpha" for field in dataclasses.fields(member))
    return member(alpha=alpha) if takes_alpha else member()  # type: ignore[call-arg]
