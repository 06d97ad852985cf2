"""Do annotators agree? Krippendorff's alpha of values, Kendall's W of rankings. NumPy in, numbers out."""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(values: Float[np.ndarray, "annotators units"], level: Level = "nominal") -> float | None:
    """1 - observed / expected disagreement, at most 1 (perfect), 0 where annotators agree as by chance; NaN is missing.

    Disagreement of two values is their squared difference: of the values themselves (interval), of their midranks in
    all values (ordinal), or 1 for any two that differ (nominal). Units with fewer than two values say nothing. None
    where no unit has two values; 1.0 where all values are the same, which chance could not better.
    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections C to E.
    """
    values = values[:, np.sum(~np.isnan(values), axis=0) >= 2]
    present = ~np.isnan(values)
    if not present.any():
        return None
    pooled, places = np.unique(values[present], return_inverse=True)
    codes = np.zeros(values.shape, np.int64)
    codes[present] = places
    # Row u: how often each value occurs in unit u.
    counts = np.stack([np.bincount(codes[present[:, u], u], minlength=len(pooled)) for u in range(values.shape[1])])
    sizes, totals = counts.sum(axis=1), counts.sum(axis=0).astype(float)
    apart = _differences(pooled, totals, level)
    within = np.einsum("ua,ub,ab->u", counts, counts, apart, dtype=float)
    observed = np.sum(within / (sizes - 1))
    expected = totals @ apart @ totals / (totals.sum() - 1)
    return 1.0 if expected == 0 else float(1 - observed / expected)


def _differences(
    pooled: Float[np.ndarray, "values"], totals: Float[np.ndarray, "values"], level: Level
) -> Float[np.ndarray, "values values"]:
    """Squared difference of each two values."""
    if level == "nominal":
        return 1.0 - np.eye(len(pooled))
    scale = pooled if level == "interval" else np.cumsum(totals) - totals / 2
    return (scale[:, None] - scale[None, :]) ** 2


def kendall_w(scores: Float[np.ndarray, "annotators items"]) -> float | None:
    """Concordance of complete rankings of the same items, corrected for ties: 0 (none) to 1 (the same ranking).

    ``scores`` are ranks or scores; only their order counts. None with fewer than two annotators or items, or where
    every annotator ties everything. Source: Kendall and Babington Smith 1939.
    """
    annotators, items = scores.shape
    if annotators < 2 or items < 2:
        return None
    ranks = np.apply_along_axis(rankdata, 1, scores)
    sums = ranks.sum(axis=0)
    ties = sum(float(np.sum(t**3 - t)) for t in (np.unique(row, return_counts=True)[1] for row in ranks))
    most = annotators**2 * (items**3 - items) - annotators * ties
    return None if most == 0 else float(12 * np.sum((sums - sums.mean()) ** 2) / most)
