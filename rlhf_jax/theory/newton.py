"""Best rewards where the slope at 0 is infinite: damped Newton in the interior."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve

from rlhf_jax.theory.pairs import Pairs, Point
from rlhf_jax.theory.shapes import Shape

MOST_STEPS = 500
SMALLEST = 1e-290  # a distance below is no longer a normal float64


def solve_scaled(matrix: Float[np.ndarray, "k k"], right: Float[np.ndarray, "k"], ridge: float = 0.0) -> np.ndarray:
    """matrix^-1 right by Cholesky after scaling the diagonal to 1.

    For an M-matrix this gives small and large unknowns alike to high relative accuracy, however far their scales lie
    apart. ``ridge`` is added to the scaled diagonal.
    """
    diagonal = np.diagonal(matrix)
    scale = 1.0 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(initial=0.0) or 1.0))
    scaled = matrix * scale[:, None] * scale[None, :]
    scaled[np.diag_indices_from(scaled)] += ridge
    return scale * cho_solve(cho_factor(scaled, lower=True, overwrite_a=True, check_finite=False), scale * right)


def interior_newton(pairs: Pairs, shape: Shape, start: Point) -> tuple[Point, int]:
    """(the maximiser, steps taken) from a start at which every compared pair is in order, strictly.

    Tops stay at 1 and bottoms at 0. A step goes at most 95 % of the way to the first tie, and is halved while it
    overshoots; the objective is not looked at, for it does not resolve distances of 1e-34.

    Raises:
      ArithmeticError: the best distances are too small for float64, or no maximum was found.
    """
    point, free = start, pairs.inner
    if not np.any(free):
        return point, 0
    last = np.inf
    for step in range(1, MOST_STEPS + 1):
        gaps = pairs.gaps(point)
        _, slope, curvature = shape(gaps)
        gradient = pairs.gradient(slope)
        move = np.zeros(pairs.n)
        move[free] = solve_scaled(pairs.negative_hessian(curvature, free), gradient[free])
        closing = -pairs.steps(move) / gaps
        length = min(1.0, 0.95 / max(float(np.max(closing)), 1e-300))
        length, point = _advance(pairs, shape, point, gradient, move, length)
        if np.any(point.t[free] < SMALLEST):
            raise ArithmeticError("the best rewards lie closer to 0 and 1 than float64 can tell")
        change = float(np.max(length * np.abs(move[free]) / point.t[free]))
        if change < 1e-14 or (change < 1e-9 and change > 0.5 * last):
            return point, step
        last = change
    raise ArithmeticError(f"no maximum found in {MOST_STEPS} Newton steps")


def _advance(
    pairs: Pairs,
    shape: Shape,
    point: Point,
    gradient: Float[np.ndarray, "n"],
    move: Float[np.ndarray, "n"],
    length: float,
) -> tuple[float, Point]:
    """The step, halved until the sum does not fall steeply again at its end: (length, new point)."""
    ascent = float(gradient @ move)
    for _ in range(60):
        new = Point(point.t + length * point.sign * move, point.upper)
        slope_at_end = float(pairs.gradient(shape(pairs.gaps(new))[1]) @ move)
        # Near the maximum both are rounding, and a step that tiny is safe.
        if slope_at_end >= -0.5 * ascent or np.max(np.abs(pairs.steps(move)) / pairs.gaps(point)) < 1e-6:
            break
        length /= 2.0
    return length, new


def is_curved(matrix: Float[np.ndarray, "k k"], least: Bool[np.ndarray, "k"] | float = 1e-10) -> bool:
    """Whether a negative Hessian is positive definite beyond rounding, which makes the maximiser the only one."""
    diagonal = np.diagonal(matrix)
    if np.any(diagonal <= 0):
        return False
    scale = 1.0 / np.sqrt(diagonal)
    scaled = matrix * scale[:, None] * scale[None, :]
    scaled[np.diag_indices_from(scaled)] -= least
    try:
        cho_factor(scaled, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    return True
