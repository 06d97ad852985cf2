"""The utility family: what a reward model is paid for the gap between two ranked responses.

A utility U maps the gap x = r(better) - r(worse) to a number, in the reward's own units. Song, Cai, Lee and Su (2023,
arXiv 2305.17608) show that a ranking-trained reward model with one fixed U converges to one reward distribution, the
maximiser of the sum of U over all pairs, whatever the prompt.

Each member is defined on its own domain, and several have a pole at 0, while a reward model that is still learning
orders many pairs wrongly. So every member whose domain begins at 0 is continued below a point, the knee, so that it
stays concave, once continuously differentiable and finite for every gap:

* ``tangent`` (default): U itself for x >= epsilon, its tangent at epsilon below. Gaps of at least epsilon feel U.
* ``shift``: U(x + epsilon) for x >= 0, its tangent at 0 below. This is the form of the paper's released code
  (epsilon = 0.1); it changes U everywhere, and with it the limiting distribution.

Members that are defined on the whole line (log-sigmoid, linear) are never continued.

A member of one's own is a frozen dataclass that derives from ``Utility`` and defines ``raw`` with ``jax.numpy``; the
slope and the curvature follow by differentiation unless they are given.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.special import betaincinv

from rlhf_jax.objectives.members import elementwise_derivative, load_own

Gap = Float[Array, "*S"]


@dataclasses.dataclass(frozen=True)
class LimitLaw:
    """A law on [0, 1]: mass ``atom`` at each of 0 and 1, the rest Beta(a, b). An atom of 1/2 leaves no rest."""

    a: float = 1.0
    b: float = 1.0
    atom: float = 0.0


TWO_POINTS = LimitLaw(atom=0.5)

SETTABLE = ("gamma", "sigma", "a", "b")  # the fields of a member that a configuration or a command line can set


@dataclasses.dataclass(frozen=True)
class Utility:
    """The contract of the family: an increasing, concave function of the gap, with its slope and curvature.

    A member gives ``raw``, valid inside its ``domain`` (of gaps, in units of reward), and may give ``raw_slope`` and
    ``raw_curvature``. ``needs_bounded_rewards``: no maximiser exists unless rewards are confined to [0, 1].
    """

    epsilon: float = 0.1
    extension: Literal["tangent", "shift"] = "tangent"

    name: ClassVar[str] = ""
    domain: ClassVar[tuple[float, float]] = (0.0, math.inf)
    needs_bounded_rewards: ClassVar[bool] = True

    def raw(self, x: Gap) -> Gap:
        """U(x) inside the domain."""
        raise NotImplementedError(f"{type(self).__name__} defines no raw(x)")

    def raw_slope(self, x: Gap) -> Gap:
        """U'(x) inside the domain."""
        return elementwise_derivative(self.raw)(x)

    def raw_curvature(self, x: Gap) -> Gap:
        """U''(x) inside the domain."""
        return elementwise_derivative(self.raw_slope)(x)

    def limit_law(self) -> LimitLaw | None:
        """The law to which n best rewards tend as n grows, under U without its continuation; None: no closed form."""
        return None

    def pair_weights(self, ranks: Int[Array, "K"], mask: Bool[Array, "K"]) -> Float[Array, "K K"] | None:
        """Weights of the pairs (better, worse) of one list, if they are not all 1 (None)."""
        return None

    @property
    def needs_extension(self) -> bool:
        """Whether the domain leaves out the gaps of mis-ordered pairs."""
        return self.domain[0] > -math.inf

    @property
    def knee(self) -> float:
        """The gap below which the continuation is a straight line."""
        return 0.0 if self.extension == "shift" else self.epsilon

    def value(self, x: Gap) -> Gap:
        """U(x) with its concave C1 continuation, finite for every gap."""
        return self._continued(x, self.raw, lambda at, below: self.raw(at) + self.raw_slope(at) * below)

    def slope(self, x: Gap) -> Gap:
        """The derivative of ``value``."""
        return self._continued(x, self.raw_slope, lambda at, below: self.raw_slope(at))

    def curvature(self, x: Gap) -> Gap:
        """The second derivative of ``value``, from the right at the knee; 0 where it is a straight line."""
        return self._continued(x, self.raw_curvature, lambda at, below: jnp.zeros_like(below))

    def _continued(self, x: Gap, inside: Callable[[Gap], Gap], tangent: Callable[[Gap, Gap], Gap]) -> Gap:
        if not self.needs_extension:
            return inside(x)
        shift = self.epsilon if self.extension == "shift" else 0.0
        shifted = x + shift
        at = jnp.full_like(shifted, self.knee + shift)
        above = shifted >= at
        # The unused branch is evaluated at the knee, not at a pole, or its NaN would reach the gradient.
        return jnp.where(above, inside(jnp.where(above, shifted, at)), tangent(at, shifted - at))


@dataclasses.dataclass(frozen=True)
class Power(Utility):
    """x^gamma, 0 < gamma <= 1. The larger gamma, the closer the rewards come to the two end points."""

    gamma: float = 0.5
    name: ClassVar[str] = "power"

    def raw(self, x: Gap) -> Gap:
        return x**self.gamma

    def raw_slope(self, x: Gap) -> Gap:
        return self.gamma * x ** (self.gamma - 1.0)

    def raw_curvature(self, x: Gap) -> Gap:
        return self.gamma * (self.gamma - 1.0) * x ** (self.gamma - 2.0)

    def limit_law(self) -> LimitLaw:
        shape = (1.0 - self.gamma) / 2.0
        return LimitLaw(shape, shape) if shape else TWO_POINTS


@dataclasses.dataclass(frozen=True)
class NegativePower(Utility):
    """-x^-gamma, gamma > 0. The larger gamma, the more evenly the rewards spread over [0, 1]."""

    gamma: float = 0.5
    name: ClassVar[str] = "negative_power"

    def raw(self, x: Gap) -> Gap:
        return -(x**-self.gamma)

    def raw_slope(self, x: Gap) -> Gap:
        return self.gamma * x ** (-self.gamma - 1.0)

    def raw_curvature(self, x: Gap) -> Gap:
        return -self.gamma * (self.gamma + 1.0) * x ** (-self.gamma - 2.0)

    def limit_law(self) -> LimitLaw:
        shape = min(1.0, (1.0 + self.gamma) / 2.0)
        return LimitLaw(shape, shape)


@dataclasses.dataclass(frozen=True)
class Log(Utility):
    """log x, the gamma -> 0 member between the power and the negative-power utilities."""

    name: ClassVar[str] = "log"

    def raw(self, x: Gap) -> Gap:
        return jnp.log(x)

    def raw_slope(self, x: Gap) -> Gap:
        return 1.0 / x

    def raw_curvature(self, x: Gap) -> Gap:
        return -1.0 / (x * x)

    def limit_law(self) -> LimitLaw:
        return LimitLaw(0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class LogSigmoid(Utility):
    """log sigmoid(x / sigma), the Bradley-Terry log-likelihood at temperature sigma; defined on the whole line."""

    sigma: float = 1.0
    name: ClassVar[str] = "log_sigmoid"
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs_bounded_rewards: ClassVar[bool] = False

    def raw(self, x: Gap) -> Gap:
        return jax.nn.log_sigmoid(x / self.sigma)

    def raw_slope(self, x: Gap) -> Gap:
        return jax.nn.sigmoid(-x / self.sigma) / self.sigma

    def raw_curvature(self, x: Gap) -> Gap:
        return -jax.nn.sigmoid(x / self.sigma) * jax.nn.sigmoid(-x / self.sigma) / self.sigma**2


@dataclasses.dataclass(frozen=True)
class Linear(Utility):
    """x itself: rewards in [0, 1] end at the two end points, half of the list at each."""

    name: ClassVar[str] = "linear"
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def raw(self, x: Gap) -> Gap:
        return x

    def raw_slope(self, x: Gap) -> Gap:
        return jnp.ones_like(x)

    def raw_curvature(self, x: Gap) -> Gap:
        return jnp.zeros_like(x)

    def limit_law(self) -> LimitLaw:
        return TWO_POINTS


@dataclasses.dataclass(frozen=True)
class Exponential(Utility):
    """-exp(-x / sigma) for x >= 0: one dial from the uniform law (sigma -> 0) to two points (sigma -> infinity).

    Its limit law is known in closed form: the potential of e^{-|x - y| / sigma} is constant on [0, 1] under two equal
    atoms at the ends and a uniform law between, of density 1/sigma relative to the atoms. The slope at 0 is finite, so
    the continuation needs no epsilon: it is the tangent at 0, and the utility as trained is the one of the theory.
    """

    sigma: float = 0.25
    name: ClassVar[str] = "exponential"

    @property
    def knee(self) -> float:
        return 0.0

    def raw(self, x: Gap) -> Gap:
        return -jnp.exp(-x / self.sigma)

    def raw_slope(self, x: Gap) -> Gap:
        return jnp.exp(-x / self.sigma) / self.sigma

    def raw_curvature(self, x: Gap) -> Gap:
        return -jnp.exp(-x / self.sigma) / self.sigma**2

    def limit_law(self) -> LimitLaw:
        return LimitLaw(atom=self.sigma / (1.0 + 2.0 * self.sigma))


@dataclasses.dataclass(frozen=True)
class Quantile(Log):
    """The inverse problem solved: log x over neighbouring tiers, weighted so that the rewards follow Beta(a, b).

    The sum of w_t log(gap_t) with the gaps adding up to 1 is largest at gap_t = w_t / sum(w), so weights equal to the
    wanted gaps give exactly the wanted rewards: 1, the quantiles Q(1 - (t + 1/2) / T) of the inner tiers, and 0. No
    utility of the gap alone can do this for every law: it always leaves the outermost gaps the smallest, and it cannot
    tell up from down. Override ``quantile`` for a law of one's own.
    """

    a: float = 2.0
    b: float = 2.0
    name: ClassVar[str] = "quantile"
    GRID: ClassVar[int] = 4096

    def quantile(self, p: Float[Array, "*S"]) -> Float[Array, "*S"]:
        """The wanted reward at probability p in (0, 1), increasing from 0 to 1."""
        # JAX has no inverse of the incomplete beta function: a table of SciPy's, made while tracing.
        grid = np.linspace(0.0, 1.0, self.GRID + 1)
        return jnp.interp(p, jnp.asarray(grid, p.dtype), jnp.asarray(betaincinv(self.a, self.b, grid), p.dtype))

    def limit_law(self) -> LimitLaw:
        return LimitLaw(self.a, self.b)

    def pair_weights(self, ranks: Int[Array, "K"], mask: Bool[Array, "K"]) -> Float[Array, "K K"]:
        """w(i, j) = gap between neighbouring tiers, shared among their pairs and scaled to a mean of 1; else 0.

        ``ranks`` are dense: 0 .. T - 1, each taken by some response.
        """
        tiers = jnp.max(jnp.where(mask, ranks, -1)) + 1
        sizes = jnp.sum((ranks[:, None] == ranks[None, :]) & mask[None, :], axis=1)
        wanted = self.quantile(1.0 - (ranks + 0.5) / jnp.maximum(tiers, 1))
        wanted = jnp.where(ranks == 0, 1.0, jnp.where(ranks == tiers - 1, 0.0, wanted))
        neighbours = (ranks[None, :] == ranks[:, None] + 1) & mask[:, None] & mask[None, :]
        gaps = (wanted[:, None] - wanted[None, :]) / jnp.maximum(sizes[:, None] * sizes[None, :], 1)
        pairs = jnp.sum((ranks[:, None] < ranks[None, :]) & mask[:, None] & mask[None, :])
        return jnp.where(neighbours, gaps, 0.0) * pairs


def unit_range(utility: Utility) -> float:
    """U(1) - U(0), which is the mean slope over the gaps that ordered rewards in [0, 1] can have.

    Utilities differ in it by orders of magnitude, and in a prompt-aware run the steepest takes all of the optimizer.
    Dividing each by its own range leaves every prompt's best rewards as they are and lets all types learn at one pace.
    """
    ends = utility.value(jnp.array([0.0, 1.0]))
    return float(ends[1] - ends[0])


FAMILY: dict[str, type[Utility]] = {
    member.name: member for member in (Power, NegativePower, Log, LogSigmoid, Linear, Exponential, Quantile)
}


def load_member(name: str) -> type[Utility]:
    """The member of a name: one of ``FAMILY``, or ``path/to/file.py:ClassName`` of the user's own.

    Raises:
      KeyError: no member has that name.
      ValueError: the file has no such class, or it is no Utility.
    """
    return load_own(name, Utility) if ":" in name else FAMILY[name]


def parameters_of(member: type[Utility]) -> tuple[str, ...]:
    """The fields of a member that can be set, in its own order, ``epsilon`` and ``extension`` apart."""
    return tuple(field.name for field in dataclasses.fields(member) if field.name in SETTABLE)


def unsettable(member: type[Utility]) -> str:
    """A sentence on the fields of a user's own member that nothing can set; empty if there are none."""
    common = {field.name for field in dataclasses.fields(Utility)}
    names = [field.name for field in dataclasses.fields(member) if field.name not in {*SETTABLE, *common}]
    return f"of its fields only {', '.join(SETTABLE)} can be set, not {', '.join(names)}" if names else ""


def make_utility(name: str, **parameters: float | str) -> Utility:
    """The member ``name`` with those of ``parameters`` that it has; the others are ignored.

    Raises:
      KeyError: no member has that name.
    """
    member = load_member(name)
    own = {field.name for field in dataclasses.fields(member)}
    return member(**{key: value for key, value in parameters.items() if key in own})  # type: ignore[arg-type]
