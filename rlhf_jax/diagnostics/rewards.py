"""How well rewards follow a ranking, and how they are spread."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import wasserstein_distance

LOW, HIGH = 0.1, 0.9


def pair_accuracy(
    rewards: Float[np.ndarray, "K"],
    ranks: Int[np.ndarray, "K"],
    mask: Bool[np.ndarray, "K"],
) -> tuple[float, int]:
    """Pairs of one list in the right order, and pairs in all: ``(correct, pairs)``.

    Ranks count from 0 = best. Responses of equal rank, or masked out, form no pair. A pair of equal
    rewards counts one half; one with a NaN counts as wrong.
    """
    pair = mask[:, None] & mask[None, :] & (ranks[:, None] < ranks[None, :])
    better, worse = rewards[:, None], rewards[None, :]
    correct = np.where(better > worse, 1.0, np.where(better == worse, 0.5, 0.0))
    return float(correct[pair].sum()), int(pair.sum())


def pair_accuracy_of_lists(
    rewards: Float[np.ndarray, "N K"],
    ranks: Int[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
) -> tuple[float, int]:
    """``(correct, pairs)`` summed over N lists; their quotient is the accuracy, pair by pair."""
    counts = [pair_accuracy(*one) for one in zip(rewards, ranks, mask, strict=True)]
    return sum((correct for correct, _ in counts), 0.0), sum(pairs for _, pairs in counts)


def wasserstein_1(a: Float[np.ndarray, "A"], b: Float[np.ndarray, "B"]) -> float:
    """Wasserstein-1 distance of two samples, in the unit of rewards: the area between their ECDFs."""
    return float(wasserstein_distance(a, b))


def kolmogorov_smirnov(a: Float[np.ndarray, "A"], b: Float[np.ndarray, "B"]) -> float:
    """Kolmogorov-Smirnov distance of two samples: the largest difference of their ECDFs.

    ``scipy.stats.ks_2samp`` gives the same with a p-value, which costs it ten times as long.
    """
    values = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(sample), values, "right") / len(sample) for sample in (a, b)]
    return float(np.max(np.abs(shares[0] - shares[1])))


def rank_profile(
    rewards: Float[np.ndarray, "N K"],
    ranks: Int[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
) -> tuple[Float[np.ndarray, "R"], Int[np.ndarray, "R"]]:
    """Mean reward at each rank 0 .. R-1 over N lists (NaN of none), and the number of responses."""
    held = ranks[mask]
    counts = np.bincount(held)
    totals = np.bincount(held, weights=rewards[mask])
    means = np.full(counts.shape, np.nan)
    np.divide(totals, counts, out=means, where=counts > 0)
    return means, counts


def distribution_summary(rewards: Float[np.ndarray, "N"]) -> dict[str, float]:
    """Mean, standard deviation (divisor N), and the shares below 0.1 and above 0.9."""
    return {
        "mean": float(rewards.mean()),
        "std": float(rewards.std()),
        "share_low": float((rewards < LOW).mean()),
        "share_high": float((rewards > HIGH).mean()),
    }
