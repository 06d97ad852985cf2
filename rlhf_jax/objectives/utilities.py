"""The utility family: what a reward model is paid for the gap between two ranked responses.

A utility U maps the gap x = r(better) - r(worse) to a number, in the reward's own units. Song, Cai, Lee and Su (2023,
arXiv 2305.17608) show that a ranking-trained reward model with one fixed U converges to one reward distribution, the
maximiser of the sum of U over all pairs, whatever the prompt.

Each member is defined on its own domain, and several have a pole at 0, while a reward model that is still learning
orders many pairs wrongly. So every member is continued below a point so that it stays concave, once continuously
differentiable and finite for every gap:

* ``tangent`` (default): U itself for x >= epsilon, its tangent at epsilon below. Gaps of at least epsilon feel U.
* ``shift``: U(x + epsilon) for x >= 0, its tangent at 0 below. This is the form of the paper's released code
  (epsilon = 0.1); it changes U everywhere, and with it the limiting distribution.

Members that are smooth everywhere (log-sigmoid, linear) are never continued.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Gap = Float[Array, "*S"]


@dataclasses.dataclass(frozen=True)
class Utility:
    """The contract of the family: an increasing, concave function of the gap, with its slope.

    A member gives ``raw`` and ``raw_slope``, valid inside its domain, and says whether it ``needs_extension`` below
    epsilon and whether it ``needs_bounded_rewards`` (no maximiser exists unless rewards are confined to [0, 1]).
    """

    epsilon: float = 0.1
    extension: Literal["tangent", "shift"] = "tangent"

    name: ClassVar[str]
    needs_extension: ClassVar[bool] = True
    needs_bounded_rewards: ClassVar[bool] = True

    def raw(self, x: Gap) -> Gap:
        """U(x) inside the domain."""
        raise NotImplementedError  # pragma: no cover - the abstract method of the contract

    def raw_slope(self, x: Gap) -> Gap:
        """U'(x) inside the domain."""
        raise NotImplementedError  # pragma: no cover - the abstract method of the contract

    def value(self, x: Gap) -> Gap:
        """U(x) with its concave C1 continuation, finite for every gap."""
        return self._continued(x, self.raw, lambda knee, below: self.raw(knee) + self.raw_slope(knee) * below)

    def slope(self, x: Gap) -> Gap:
        """The derivative of ``value``."""
        return self._continued(x, self.raw_slope, lambda knee, below: self.raw_slope(knee))

    def _continued(self, x: Gap, inside: Callable[[Gap], Gap], tangent: Callable[[Gap, Gap], Gap]) -> Gap:
        if not self.needs_extension:
            return inside(x)
        shifted = x + self.epsilon if self.extension == "shift" else x
        knee = jnp.full_like(shifted, self.epsilon)
        above = shifted >= knee
        # The unused branch is evaluated at the knee, not at a pole, or its NaN would reach the gradient.
        return jnp.where(above, inside(jnp.where(above, shifted, knee)), tangent(knee, shifted - knee))


@dataclasses.dataclass(frozen=True)
class Power(Utility):
    """x^gamma, 0 < gamma <= 1. The larger gamma, the closer the rewards come to the two end points."""

    gamma: float = 0.5
    name: ClassVar[str] = "power"

    def raw(self, x: Gap) -> Gap:
        return x**self.gamma

    def raw_slope(self, x: Gap) -> Gap:
        return self.gamma * x ** (self.gamma - 1.0)


@dataclasses.dataclass(frozen=True)
class NegativePower(Utility):
    """-x^-gamma, gamma > 0. The larger gamma, the more evenly the rewards spread over [0, 1]."""

    gamma: float = 0.5
    name: ClassVar[str] = "negative_power"

    def raw(self, x: Gap) -> Gap:
        return -(x**-self.gamma)

    def raw_slope(self, x: Gap) -> Gap:
        return self.gamma * x ** (-self.gamma - 1.0)


@dataclasses.dataclass(frozen=True)
class Log(Utility):
    """log x, the gamma -> 0 member between the power and the negative-power utilities."""

    name: ClassVar[str] = "log"

    def raw(self, x: Gap) -> Gap:
        return jnp.log(x)

    def raw_slope(self, x: Gap) -> Gap:
        return 1.0 / x


@dataclasses.dataclass(frozen=True)
class LogSigmoid(Utility):
    """log sigmoid(x / sigma), the Bradley-Terry log-likelihood at temperature sigma; defined on the whole line."""

    sigma: float = 1.0
    name: ClassVar[str] = "log_sigmoid"
    needs_extension: ClassVar[bool] = False
    needs_bounded_rewards: ClassVar[bool] = False

    def raw(self, x: Gap) -> Gap:
        return jax.nn.log_sigmoid(x / self.sigma)

    def raw_slope(self, x: Gap) -> Gap:
        return jax.nn.sigmoid(-x / self.sigma) / self.sigma


@dataclasses.dataclass(frozen=True)
class Linear(Utility):
    """x itself: rewards in [0, 1] end at the two end points, half of the list at each."""

    name: ClassVar[str] = "linear"
    needs_extension: ClassVar[bool] = False

    def raw(self, x: Gap) -> Gap:
        return x

    def raw_slope(self, x: Gap) -> Gap:
        return jnp.ones_like(x)


def unit_range(utility: Utility) -> float:
    """U(1) - U(0), which is the mean slope over the gaps that ordered rewards in [0, 1] can have.

    Utilities differ in it by orders of magnitude, and in a prompt-aware run the steepest takes all of the optimizer.
    Dividing each by its own range leaves every prompt's best rewards as they are and lets all types learn at one pace.
    """
    ends = utility.value(jnp.array([0.0, 1.0]))
    return float(ends[1] - ends[0])


FAMILY: dict[str, type[Utility]] = {member.name: member for member in (Power, NegativePower, Log, LogSigmoid, Linear)}


def make_utility(name: str, **parameters: float | str) -> Utility:
    """The member ``name`` with those of ``parameters`` that it has; the others are ignored.

    Raises:
      KeyError: no member has that name.
    """
    member = FAMILY[name]
    own = {field.name for field in dataclasses.fields(member)}
    return member(**{key: value for key, value in parameters.items() if key in own})  # type: ignore[arg-type]
