"""How gold reward rises and falls with the distance from the starting policy: fits, their peaks, their uncertainty.

With d = sqrt(KL(policy || start)) in sqrt(nats) and R the gold reward gained over the start, Gao, Schulman and Hilton
2023 (arXiv 2210.10760) find R = d (a - b d) for best-of-n and R = d (a - b log d) for reinforcement learning. NumPy in,
numbers out.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

Form = Literal["best_of_n", "rl"]


@dataclasses.dataclass(frozen=True)
class Fit:
    """R(d) = d (a - b g(d)), g(d) = d of ``best_of_n`` and log d of ``rl``; a in reward per sqrt(nat), b likewise.

    The form of ``rl`` has an infinite slope at 0: it says nothing of policies next to the start.
    """

    form: Form
    a: float
    b: float

    def __call__(self, distance: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """The gain at d > 0."""
        return distance * (self.a - self.b * _shape(self.form, distance))

    @property
    def peak(self) -> tuple[float, float]:
        """(d, R) where the gain is largest; (inf, inf) of a curve that rises without end, (0, 0) if it only falls.

        best_of_n: a / (2b), a^2 / (4b). rl: d = exp(a/b - 1), R = b d.
        """
        if self.b < 0 or (self.b == 0 and self.a > 0):
            return np.inf, np.inf
        if self.b == 0 or (self.form == "best_of_n" and self.a <= 0):
            return 0.0, 0.0
        if self.form == "best_of_n":
            return self.a / (2.0 * self.b), self.a**2 / (4.0 * self.b)
        with np.errstate(over="ignore"):
            distance = float(np.exp(self.a / self.b - 1.0))
        return distance, self.b * distance


def fit(distance: Float[np.ndarray, "N"], gain: Float[np.ndarray, "N"], form: Form) -> Fit:
    """Least squares of R / d on g(d), over the points with d > 0.

    Raises:
      ValueError: fewer than two different distances above 0.
    """
    held = distance > 0
    if len(np.unique(distance[held])) < 2:
        raise ValueError("a fit needs two different distances above 0")
    columns = np.stack([np.ones(held.sum()), -_shape(form, distance[held])], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, gain[held] / distance[held])
    return Fit(form, float(a), float(b))


@dataclasses.dataclass(frozen=True)
class FitInterval:
    """A fit to all runs, and percentile intervals of what it says from runs drawn anew with replacement.

    Each is (low, high); an end of a peak is infinite where resampled curves do not turn.
    """

    fit: Fit
    a: tuple[float, float]
    b: tuple[float, float]
    peak_distance: tuple[float, float]
    peak_gain: tuple[float, float]


def bootstrap_fit(
    distance: Float[np.ndarray, "S N"],
    gain: Float[np.ndarray, "S N"],
    form: Form,
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> FitInterval:
    """Fit N points of each of S runs together; intervals by drawing whole runs, whose points are not independent."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(0, len(distance), len(distance))
        one = fit(distance[rows].ravel(), gain[rows].ravel(), form)
        drawn.append((one.a, one.b, *one.peak))
    ends = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    # Order statistics: between two finite numbers and infinity there is nothing to interpolate.
    low, high = np.quantile(np.array(drawn), ends, axis=0, method="nearest")
    pairs = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    return FitInterval(fit(distance.ravel(), gain.ravel(), form), *pairs)


def reward_gap(
    proxy: Float[np.ndarray, "N"],
    gold: Float[np.ndarray, "N"],
    start_proxy: Float[np.ndarray, "M"],
    start_gold: Float[np.ndarray, "M"],
) -> float:
    """How much more the proxy has gained than the gold, each in deviations of the answers that the start gives.

    NaN where those answers are all worth the same.
    """
    if not (np.ptp(start_proxy) > 0 and np.ptp(start_gold) > 0):  # their deviation may be rounding
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = [(now.mean() - then.mean()) / then.std() for now, then in ((proxy, start_proxy), (gold, start_gold))]
    gap = float(gains[0] - gains[1])
    return gap if np.isfinite(gap) else float("nan")


def turning_point(gold: Float[np.ndarray, "N"], window: int = 1) -> int:
    """The place of the highest gold after a centred mean over ``window`` (odd) points, fewer at the ends."""
    half = window // 2
    smooth = [gold[max(i - half, 0) : i + half + 1].mean() for i in range(len(gold))]
    return int(np.argmax(smooth))


def _shape(form: Form, distance: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    return distance if form == "best_of_n" else np.log(distance)
