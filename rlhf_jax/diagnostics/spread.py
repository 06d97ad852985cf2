"""Does an ensemble know what it does not know? Spread of its members against its errors on ranked pairs."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit
from scipy.stats import mannwhitneyu, spearmanr

BINS = 5


@dataclasses.dataclass(frozen=True)
class SpreadBin:
    """Pairs of similar spread: how many, their mean spread (reward), and the share in the right order."""

    pairs: int
    spread: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class SpreadReading:
    """What lists show of an ensemble's spread; None where there is nothing to measure it on.

    ``spread`` is the mean over responses of the standard deviation over members, ``pair_spread`` the same of the gap of
    a pair, both in reward. ``error_correlation`` is Spearman's between the spread of a pair and its error
    1 - sigma(mean gap); ``auroc`` the probability that a mis-ordered pair has a larger spread than a well-ordered one.
    ``bins`` hold equal numbers of pairs, the smallest spread first.
    """

    spread: float | None
    pair_spread: float | None
    error_correlation: float | None
    auroc: float | None
    bins: tuple[SpreadBin, ...]


def measure_spread(
    members: Float[np.ndarray, "N K M"], better: Bool[np.ndarray, "N K K"], mask: Bool[np.ndarray, "N K"]
) -> SpreadReading:
    """Read the rewards that M members give to N lists; ``better[n, i, j]``: i was judged better than j."""
    row, above, below = np.nonzero(better & mask[:, :, None] & mask[:, None, :])
    gaps = members[row, above] - members[row, below]
    apart, mean = gaps.std(axis=1), gaps.mean(axis=1)
    wrong = mean <= 0
    varied = len(apart) > 1 and np.ptp(apart) > 0 and np.ptp(mean) > 0
    return SpreadReading(
        spread=float(members.std(axis=2)[mask].mean()) if mask.any() else None,
        pair_spread=float(apart.mean()) if len(apart) else None,
        error_correlation=float(spearmanr(apart, expit(-mean)).statistic) if varied else None,
        auroc=auroc(apart[wrong], apart[~wrong]),
        bins=spread_bins(apart, ~wrong),
    )


def auroc(positive: Float[np.ndarray, "p"], negative: Float[np.ndarray, "n"]) -> float | None:
    """The probability that a positive exceeds a negative, ties counting one half; None if either is empty."""
    if not len(positive) or not len(negative):
        return None
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def spread_bins(
    spread: Float[np.ndarray, "P"], right: Bool[np.ndarray, "P"], bins: int = BINS
) -> tuple[SpreadBin, ...]:
    """Pairs in order of their spread, cut into ``bins`` of equal size (as equal as can be; fewer if pairs are few)."""
    parts = np.array_split(np.argsort(spread, kind="stable"), bins)
    return tuple(
        SpreadBin(len(part), float(spread[part].mean()), float(right[part].mean())) for part in parts if len(part)
    )


def spread_metrics(reading: SpreadReading) -> dict[str, float]:
    """The numbers by their metric names; what is not known is left out."""
    found = {
        "spread": reading.spread,
        "spread_error_correlation": reading.error_correlation,
        "spread_auroc": reading.auroc,
    }
    return {name: value for name, value in found.items() if value is not None}
