"""Best rewards where the slope at 0 is finite: Newton with the bounds 0 <= r <= 1 met by an active set."""

import numpy as np
from jaxtyping import Bool, Float

from rlhf_jax.theory.newton import solve_scaled
from rlhf_jax.theory.pairs import Pairs, Point
from rlhf_jax.theory.shapes import Shape

MOST_STEPS = 300
RIDGE = 1e-11  # the continuation may be straight, and then nothing holds a step but the bounds


def box_newton(pairs: Pairs, shape: Shape, start: Point) -> tuple[Point, int]:
    """(a maximiser, steps taken) over [0, 1]^n; U has to be concave on the whole line.

    Each step maximises the quadratic model inside the bounds, then goes along that line to where the sum itself stops
    rising. Ties at an end point come out exact.

    Raises:
      ArithmeticError: no maximum was found.
    """
    point, free = start, pairs.inner
    if not np.any(free):
        return point, 0
    best, best_residual, since_best = point, np.inf, 0
    for step in range(1, MOST_STEPS + 1):
        _, slope, curvature = shape(pairs.gaps(point))
        gradient = pairs.gradient(slope)
        matrix = pairs.negative_hessian(curvature, free)
        rewards = point.rewards
        move = np.zeros(pairs.n)
        move[free], held = _bounded_step(matrix, gradient[free], -rewards[free], 1.0 - rewards[free])
        length = _length(pairs, shape, point, gradient, move)
        t = np.clip(point.t + length * point.sign * move, 0.0, 1.0)
        if length == 1.0:
            ends = np.flatnonzero(free)[held]
            at_one = move[ends] >= 1.0 - rewards[ends]
            t[ends] = np.where(at_one == point.upper[ends], 0.0, 1.0)
        point = Point(t, point.upper)
        residual = pairs.residual(shape, point)
        since_best += 1
        if residual < 0.5 * best_residual:
            since_best = 0
        if residual < best_residual:
            best, best_residual = point, residual
        if best_residual < 1e-15 or (best_residual < 1e-12 and since_best >= 2):
            return best, step
    if best_residual > 1e-8:
        raise ArithmeticError(f"no maximum found in {MOST_STEPS} Newton steps: residual {best_residual:.1e}")
    return best, MOST_STEPS


def _bounded_step(
    matrix: Float[np.ndarray, "k k"],
    gradient: Float[np.ndarray, "k"],
    lowest: Float[np.ndarray, "k"],
    highest: Float[np.ndarray, "k"],
) -> tuple[Float[np.ndarray, "k"], Bool[np.ndarray, "k"]]:
    """(d, held): d maximises g d - d A d / 2 within its bounds, ``held`` are the entries that lie on one.

    Primal-dual active set, which for an M-matrix ends after finitely many guesses (Hintermueller, Ito, Kunisch 2003).
    """
    move = np.zeros_like(gradient)
    low, high = (lowest >= 0.0) & (gradient < 0.0), (highest <= 0.0) & (gradient > 0.0)
    for _ in range(40):
        move = np.where(low, lowest, np.where(high, highest, 0.0))
        loose = ~(low | high)
        if np.any(loose):
            right = gradient[loose] - matrix[np.ix_(loose, ~loose)] @ move[~loose]
            move[loose] = solve_scaled(matrix[np.ix_(loose, loose)], right, RIDGE)
        push = gradient - matrix @ move
        new_low = (low & (push < 0.0)) | (loose & (move < lowest))
        new_high = (high & (push > 0.0)) | (loose & (move > highest))
        if np.array_equal(new_low, low) and np.array_equal(new_high, high):
            break
        low, high = new_low, new_high
    move = np.clip(move, lowest, highest)
    return move, (move == lowest) | (move == highest)


def _length(
    pairs: Pairs, shape: Shape, point: Point, gradient: Float[np.ndarray, "n"], move: Float[np.ndarray, "n"]
) -> float:
    """How far along ``move`` the sum goes on rising, at most 1. It is concave there: its slope only falls."""

    def ascent(length: float) -> float:
        there = Point(point.t + length * point.sign * move, point.upper)
        return float(pairs.gradient(shape(pairs.gaps(there))[1]) @ move)

    first, last = float(gradient @ move), ascent(1.0)
    if last >= -0.1 * first or np.max(np.abs(move)) < 1e-9:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        here = ascent(middle)
        if abs(here) <= 0.1 * first:
            break
        low, high = (middle, high) if here > 0 else (low, middle)
    return middle
