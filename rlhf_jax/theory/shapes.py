"""A utility as float64 functions of gaps, and whether the solver can work with it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlhf_jax.objectives.utilities import Utility

Values = Float[np.ndarray, "P"]
Shape = Callable[[Values], tuple[Values, Values, Values]]

STEEPEST = 1e150  # a curvature that is infinite, at the edge of a domain, is taken for this much


@functools.lru_cache(maxsize=256)
def shape_of(utility: Utility, trained: bool) -> Shape:
    """``gaps -> (value, slope, curvature)``, each float64.

    ``trained``: with the utility's own continuation and epsilon, as a reward model is trained. Otherwise U itself, and
    below a domain that begins at 0 its tangent at 0: ordered rewards never reach there, and where the slope at 0 is
    infinite it is a wall.
    """

    def raw(x: Float[Array, "P"]) -> tuple[Array, Array, Array]:
        if not utility.needs_extension:
            return utility.raw(x), utility.raw_slope(x), utility.raw_curvature(x)
        at = jnp.maximum(x, 0.0)
        slope = utility.raw_slope(at)
        value = utility.raw(at) + jnp.where(x < 0, slope * x, 0.0)
        return value, slope, jnp.where(x < 0, 0.0, utility.raw_curvature(at))

    def continued(x: Float[Array, "P"]) -> tuple[Array, Array, Array]:
        return utility.value(x), utility.slope(x), utility.curvature(x)

    compiled = jax.jit(continued if trained else raw)

    def shape(gaps: Values) -> tuple[Values, Values, Values]:
        # Padded to a power of two: the program is compiled for a few sizes, not for each.
        padded = np.ones(max(64, 1 << (len(gaps) - 1).bit_length()))
        padded[: len(gaps)] = gaps
        with jax.enable_x64(True):
            value, slope, curvature = (np.array(part[: len(gaps)]) for part in compiled(padded))
        return value, slope, np.nan_to_num(curvature, nan=0.0, neginf=-STEEPEST)

    return shape


def is_singular(shape: Shape) -> bool:
    """Whether the slope at a gap of 0 is infinite, so that no two ordered rewards are ever equal. Measured."""
    return not np.isfinite(shape(np.zeros(1))[1][0])


def check_shape(shape: Shape, utility: Utility) -> None:
    """Raises ValueError unless the utility increases, concavely, over the gaps that rewards in [0, 1] can have."""
    value, slope, curvature = shape(np.linspace(1e-3, 1.0, 1000))
    if not (np.all(np.isfinite(value)) and np.all(np.isfinite(slope))):
        raise ValueError(f"{utility!r} is not finite for every gap in (0, 1]")
    if np.any(slope < 0) or not np.any(slope > 0):
        raise ValueError(f"{utility!r} does not increase with the gap on (0, 1]: it rewards no order")
    rises = np.diff(slope) > 1e-9 * (1.0 + slope[1:])  # at a kink, where the curvature is of a measure that it misses
    if np.any(curvature > 1e-9 * (1.0 + slope)) or np.any(rises):
        raise ValueError(
            f"{utility!r} is not concave on (0, 1]: its best rewards are not unique and cannot be solved for"
        )
