"""One smooth family of utilities through power, log and negative power, and the laws it leads to.

U(x) = (x^s - 1) / s, of slope x^(s - 1), with s = 1 - 2a: the maximiser of the mean of U over random pairs of responses
is Beta(a, a) for 0 < a < 1. So a = (1 - g) / 2 is x^g, a = 1/2 is log x and a = (1 + g) / 2 is -x^-g, up to a scale.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import betaincinv, expit

from rlhf_jax.objectives.utilities import Gap, LimitLaw, Utility


@dataclasses.dataclass(frozen=True)
class BoxCox(Utility):
    """(x^s - 1) / s with s = 1 - 2 ``shape``, 0 < shape < 1. ``shape`` may be traced: one utility for each prompt."""

    shape: float | Float[Array, ""] = 0.5
    name: ClassVar[str] = "box_cox"

    def raw(self, x: Gap) -> Gap:
        s = 1.0 - 2.0 * self.shape
        # At s = 0 the quotient is 0 / 0; there the family is log x, to which it is continuous.
        safe = jnp.where(jnp.abs(s) < 1e-3, 1e-3, s)
        return jnp.expm1(safe * jnp.log(x)) / safe

    def raw_slope(self, x: Gap) -> Gap:
        return x ** (-2.0 * self.shape)

    def limit_law(self) -> LimitLaw:
        return LimitLaw(float(self.shape), float(self.shape))


def quantiles(shape: np.ndarray | float, q: np.ndarray) -> np.ndarray:
    """The reward at probability q of Beta(shape, shape), the shapes of the two broadcast."""
    return betaincinv(shape, shape, q)


def shape_of_moment(second: np.ndarray) -> np.ndarray:
    """a from E(Y - 1/2)^2 = 1 / (4 (2a + 1)), kept within [0.02, 0.98]; a moment of 0 or less: the most even."""
    return np.clip((0.25 / np.maximum(second, 1e-6) - 1.0) / 2.0, 0.02, 0.98)


def win_table(shapes: np.ndarray, size: int, tau: float, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """(G, K, K): probability that a rater prefers the i-th best of ``size`` responses to the j-th, by shape.

    A rater prefers one reward to another with probability sigmoid(gap / tau). The qualities of the responses are not
    known, only their order: the mean is over lists of independent uniform qualities.
    """
    rng = np.random.default_rng(seed)
    q = np.sort(rng.random((draws, size)), axis=1)[:, ::-1]
    table = []
    for shape in shapes:
        r = quantiles(shape, q)
        table.append(expit((r[:, :, None] - r[:, None, :]) / tau).mean(axis=0))
    return np.stack(table)
