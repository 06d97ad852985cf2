"""How far a mean over a few seeds can be trusted."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95


def half_width(values: Sequence[float] | Float[np.ndarray, "S"]) -> float | None:
    """Half of the 95 % interval of a mean, by Student's t: t_{0.975, n-1} s / sqrt(n); None below two values."""
    # Imported here: it takes a while, and only sweeps need it.
    from scipy.stats import t

    n = len(values)
    return float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
