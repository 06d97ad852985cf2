"""Orders of eight responses, best first: total, in tiers, or with only some pairs compared."""

import numpy as np
from jaxtyping import Bool, Int

SIZE = 8
TIERS = {"full": (1,) * SIZE, "two": (4, 4), "two_uneven": (2, 6), "three": (2, 3, 3)}
# A directed graph drawn once: three pairs in eight, each response in one or more.
SPARSE = ((0, 2), (0, 5), (1, 3), (1, 4), (2, 6), (3, 5), (3, 7), (4, 6), (0, 7), (2, 4), (5, 7))


def ranks_of(sizes: tuple[int, ...]) -> Int[np.ndarray, "K"]:
    """The tier of each response, 0 the best."""
    return np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)


def better(order: str) -> Bool[np.ndarray, "K K"]:
    """True at (i, j) where i is known to be better than j.

    chain: only neighbours are compared. star: only the best with each other. sparse: the pairs of SPARSE.
    """
    if order in TIERS:
        ranks = ranks_of(TIERS[order])
        return ranks[:, None] < ranks[None, :]
    found = np.zeros((SIZE, SIZE), bool)
    pairs = {
        "chain": [(i, i + 1) for i in range(SIZE - 1)],
        "star": [(0, i) for i in range(1, SIZE)],
        "sparse": SPARSE,
    }[order]
    found[tuple(np.array(pairs).T)] = True
    return found
