"""The comparable pairs of ranked lists, better response first: what accuracy and calibration are measured on."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Pairs:
    """M pairs from all lists. ``distance`` is the difference of dense ranks, at least 1.

    ``row`` is the list of a pair, ``better`` and ``worse`` are the columns of its two responses.
    """

    row: Int[np.ndarray, "M"]
    better: Int[np.ndarray, "M"]
    worse: Int[np.ndarray, "M"]
    distance: Int[np.ndarray, "M"]

    def __len__(self) -> int:
        return len(self.row)

    def of(self, values: Float[np.ndarray, "N K"]) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
        """What an array over the responses holds for the better and for the worse response of each pair."""
        return values[self.row, self.better], values[self.row, self.worse]


def better_by_rank(ranks: Int[np.ndarray, "N K"], mask: Bool[np.ndarray, "N K"]) -> Bool[np.ndarray, "N K K"]:
    """``[n, i, j]``: response i of list n has a better rank than j (0 is best), and both exist."""
    return (ranks[:, :, None] < ranks[:, None, :]) & mask[:, :, None] & mask[:, None, :]


def pairs_of_lists(
    better: Bool[np.ndarray, "N K K"], ranks: Int[np.ndarray, "N K"], mask: Bool[np.ndarray, "N K"]
) -> Pairs:
    """All pairs of which ``better[n, i, j]`` says that i was judged better than j, in the order of the lists.

    ``better`` is given beside the ranks because those of a partial order do not say which responses were compared.
    """
    dense = dense_ranks(ranks, mask)
    row, above, below = np.nonzero(better & mask[:, :, None] & mask[:, None, :])
    return Pairs(row, above, below, np.maximum(dense[row, below] - dense[row, above], 1))


def dense_ranks(ranks: Int[np.ndarray, "N K"], mask: Bool[np.ndarray, "N K"]) -> Int[np.ndarray, "N K"]:
    """Ranks 0, 1, 2, ... without gaps within each list; 0 where there is no response."""
    dense = np.zeros(ranks.shape, int)
    for row, (own, real) in enumerate(zip(ranks, mask, strict=True)):
        dense[row, real] = np.unique(own[real], return_inverse=True)[1]
    return dense


def right_order(rewards: Float[np.ndarray, "N K"], pairs: Pairs) -> Float[np.ndarray, "M"]:
    """1 for a pair whose better response has the higher reward, 1/2 for equal rewards, else 0 (also for a NaN)."""
    better, worse = pairs.of(rewards)
    return np.where(better > worse, 1.0, np.where(better == worse, 0.5, 0.0))
