"""The rewards that a utility asks for: argmax of sum U(r_i - r_j) over the compared pairs, 0 <= r <= 1.

What a reward model trained by ranking tends to, whatever the prompt (Song, Cai, Lee and Su 2023). For U increasing and
strictly concave the maximiser is unique; the best response gets 1, the worst 0.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import connected_components
from scipy.stats import beta

from rlhf_jax.objectives.utilities import Quantile, Utility
from rlhf_jax.theory.box import box_newton
from rlhf_jax.theory.newton import interior_newton, is_curved
from rlhf_jax.theory.pairs import Pairs, Point
from rlhf_jax.theory.shapes import check_shape, is_singular, shape_of


@dataclasses.dataclass(frozen=True)
class Optimum:
    """Best rewards of n responses, in the order in which they were given (best first, in a full order).

    ``tails``: the distance of each from the end point, 0 or 1, that it is nearer to, with full relative accuracy: the
    rewards themselves cannot tell 1 - 1e-34 from 1. ``objective``: the sum of (weighted) utilities. ``kkt_residual``:
    see ``Pairs.residual``; rounding leaves 1e-15, or 1e-13 of a thousand responses.
    ``unique``: False if other rewards may be as good.
    """

    rewards: Float[np.ndarray, "n"]
    tails: Float[np.ndarray, "n"]
    objective: float
    kkt_residual: float
    iterations: int
    unique: bool


def best_rewards(utility: Utility, n: int, *, trained: bool = False) -> Optimum:
    """Best rewards of n responses in a full order, descending.

    ``trained=False``: under U itself. ``trained=True``: under U with its continuation below 0 and its epsilon, which is
    what a reward model is trained with.

    Raises:
      ValueError: n < 1, or the utility does not increase or is not concave.
      ArithmeticError: they cannot be told from the end points in float64.
    """
    return best_rewards_of_tiers(utility, [1] * n, trained=trained)


def best_rewards_by_type(utilities: Mapping[str, Utility], n: int, *, trained: bool = False) -> dict[str, Optimum]:
    """``best_rewards`` of each prompt type under its own utility."""
    return {kind: best_rewards(utility, n, trained=trained) for kind, utility in utilities.items()}


def best_rewards_of_tiers(utility: Utility, sizes: Sequence[int], *, trained: bool = False) -> Optimum:
    """Best rewards, descending, of tiers of ``sizes`` responses, best tier first; only different tiers are compared.

    U being concave, the responses of a tier share one reward, so that this is one unknown a tier.
    """
    counts = np.asarray(sizes, int)
    if len(counts) < 1 or np.any(counts < 1):
        raise ValueError(f"tiers need one response or more each, not {list(sizes)}")
    weights = np.triu(np.outer(counts, counts).astype(float), 1)
    per_pair = _pair_weights(utility, np.repeat(np.arange(len(counts)), counts))
    if per_pair is not None:
        first = np.cumsum(counts) - counts
        weights *= per_pair[np.ix_(first, first)]
    down = np.arange(len(counts))[::-1] / (len(counts) - 1) if len(counts) > 1 else np.array([0.5])
    if isinstance(utility, Quantile) and not trained and len(counts) > 1:
        found = _report(utility, Pairs.of_matrix(weights), _proportional(weights), 0, trained)
    else:
        found = _solve(utility, weights, down, trained)
    return dataclasses.replace(found, rewards=np.repeat(found.rewards, counts), tails=np.repeat(found.tails, counts))


def best_rewards_of_order(
    utility: Utility,
    n: int,
    better: Bool[np.ndarray, "n n"] | Float[np.ndarray, "n n"] | Iterable[tuple[int, int]],
    *,
    trained: bool = False,
) -> Optimum:
    """Best rewards of n responses of which only some pairs are compared, in the order of the responses.

    ``better``: pairs (better, worse), or a matrix whose entry (i, j) is True, or the weight of the pair, where i is
    better than j. The sum runs over just these pairs; a response in none of them is free, and gets 1/2.

    Raises:
      ValueError: the pairs form a cycle.
    """
    if isinstance(better, np.ndarray):
        weights = better.astype(float)
    else:
        weights = np.zeros((n, n))
        for i, j in better:
            weights[i, j] = 1.0
    if weights.shape != (n, n) or np.any(weights < 0):
        raise ValueError(f"an order of {n} responses is a matrix of {n} x {n} weights of 0 or more")
    if np.any(np.diagonal(weights)) or connected_components(weights > 0, connection="strong")[0] < n:
        raise ValueError("the order has a cycle: some response would be better than itself")
    above, below = _depths(weights > 0), _depths(weights.T > 0)
    return _solve(utility, weights, np.where(above + below > 0, below / np.maximum(above + below, 1), 0.5), trained)


def _depths(better: Bool[np.ndarray, "n n"]) -> Int[np.ndarray, "n"]:
    """The longest chain of better responses above each."""
    depths = np.zeros(len(better), int)
    while True:
        deeper = np.max(np.where(better, depths[:, None] + 1, 0), axis=0)
        if np.array_equal(deeper, depths):
            return depths
        depths = deeper


def _pair_weights(utility: Utility, ranks: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n n"] | None:
    with jax.enable_x64(True):
        weights = utility.pair_weights(jnp.asarray(ranks), jnp.ones(len(ranks), bool))
        return None if weights is None else np.array(weights, np.float64)


def _proportional(weights: Float[np.ndarray, "T T"]) -> Point:
    """The maximiser of sum w_t log(gap_t) under sum gap_t = 1: gaps in proportion to the weights."""
    gaps = np.diagonal(weights, 1) / np.sum(np.diagonal(weights, 1))
    from_one, from_zero = np.cumsum(gaps), np.cumsum(gaps[::-1])[::-1]
    point = Point(np.append(from_zero, 0.0), np.zeros(len(weights), bool))
    upper = point.t > 0.5
    return Point(np.where(upper, np.append(0.0, from_one), point.t), upper)


def _solve(
    utility: Utility, weights: Float[np.ndarray, "T T"], start: Float[np.ndarray, "T"], trained: bool
) -> Optimum:
    """``start``: rewards in [0, 1] at which every compared pair is in order."""
    shape = shape_of(utility, trained)
    check_shape(shape, utility)
    pairs = Pairs.of_matrix(weights)
    singular = is_singular(shape)
    point = Point(np.minimum(start, 1.0 - start), start >= 0.5)
    law = utility.limit_law()
    if singular and law is not None and law.a == law.b and not law.atom:
        # The quantiles of the limit law, but not so far into the corners that they underflow.
        point = Point(beta.ppf(point.t, max(law.a, 0.05), max(law.b, 0.05)), point.upper)
    point.t[~(pairs.inner | pairs.top | pairs.bottom)] = 0.5  # in no pair
    iterations = 0
    for _ in range(3):
        point, steps = (interior_newton if singular else box_newton)(pairs, shape, point)
        iterations += steps
        if not np.any(point.t > 0.5):
            break
        point = point.to_nearest_end()  # once more, where each distance is exact
    if np.array_equal(weights, weights.T[::-1, ::-1]):
        point = _mirrored(point)
    return _report(utility, pairs, point, iterations, trained)


def _mirrored(point: Point) -> Point:
    """The mean of a point and its mirror image about 1/2, which under a symmetric order is as good, or better."""
    middle = point.upper == point.upper[::-1]  # the odd one out
    return Point(np.where(middle, 0.5, 0.5 * (point.t + point.t[::-1])), point.upper)


def _report(utility: Utility, pairs: Pairs, point: Point, iterations: int, trained: bool) -> Optimum:
    shape = shape_of(utility, trained)
    inside = pairs.inner & (point.t > 0.0) & (point.t < 1.0)
    compared = pairs.inner | pairs.top | pairs.bottom
    bent = is_curved(pairs.negative_hessian(shape(pairs.gaps(point))[2], inside))
    return Optimum(
        rewards=point.rewards,
        tails=np.minimum(point.t, 1.0 - point.t),
        objective=pairs.objective(shape, point) if len(pairs.weights) else 0.0,
        kkt_residual=pairs.residual(shape, point),
        iterations=iterations,
        unique=bool(np.all(compared)) and bent,
    )
