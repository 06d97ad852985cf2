"""Are the probabilities that rewards give to the order of pairs right?

All functions take ``probability``: of each pair, the probability that the model gives to the response that won. Under
Bradley and Terry (1952) it is sigma((r_better - r_worse) / T); the pair counts once, in the order that was observed.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import expit, xlogy

BINS = 10
# Temperatures are sought between these multiples of the mean absolute gap. Where every pair is right (or no better than
# chance), no temperature is best: the loss falls on towards 0 (towards infinity), and an end of the range is returned.
COLDEST, HOTTEST = 1e-2, 1e4


@dataclasses.dataclass(frozen=True)
class Reliability:
    """The bins of a reliability diagram: 10 of equal width from 0.5 to 1, the upper edge belonging to a bin.

    ``pairs`` counts the pairs whose confidence max(p, 1 - p) falls into each bin; ``confidence`` is its mean and
    ``accuracy`` the share of them in which the predicted winner won (p = 1/2 counts one half); NaN where none falls.
    """

    edges: Float[np.ndarray, "_"]
    pairs: Int[np.ndarray, "B"]
    confidence: Float[np.ndarray, "B"]
    accuracy: Float[np.ndarray, "B"]

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1]: |accuracy - confidence|, averaged over pairs. Guo et al. 2017."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(gaps @ self.pairs / max(self.pairs.sum(), 1))

    @property
    def mce(self) -> float:
        """Maximum calibration error in [0, 1]: the largest |accuracy - confidence| of a bin."""
        return float(np.nan_to_num(np.abs(self.accuracy - self.confidence)).max(initial=0.0))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Figures of one temperature: ``log_loss`` in nats per pair, ``brier`` in [0, 1], and the reliability diagram."""

    temperature: float
    log_loss: float
    brier: float
    reliability: Reliability


def probabilities(gaps: Float[np.ndarray, "M"], temperature: float) -> Float[np.ndarray, "M"]:
    """sigma(gap / T) for gaps r_better - r_worse."""
    return expit(gaps / temperature)


def log_loss(gaps: Float[np.ndarray, "M"], temperature: float) -> float:
    """Mean of -log sigma(gap / T), in nats per pair; log 2 for a model that knows nothing."""
    return float(np.logaddexp(0.0, -gaps / temperature).mean())


def brier(probability: Float[np.ndarray, "M"]) -> float:
    """Mean of (1 - p)^2, in [0, 1]; 1/4 for a model that knows nothing. Brier 1950, for one of the two outcomes."""
    return float(np.mean((1 - probability) ** 2))


def reliability(probability: Float[np.ndarray, "M"], bins: int = BINS) -> Reliability:
    """Sort the pairs by the confidence in the predicted winner, whichever of the two that is."""
    confidence = np.maximum(probability, 1 - probability)
    won = np.where(probability > 0.5, 1.0, np.where(probability == 0.5, 0.5, 0.0))
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, "left") - 1, 0, bins - 1)
    pairs = np.bincount(place, minlength=bins)

    def mean(values: Float[np.ndarray, "M"]) -> Float[np.ndarray, "B"]:
        means = np.full(bins, np.nan)
        np.divide(np.bincount(place, weights=values, minlength=bins), pairs, out=means, where=pairs > 0)
        return means

    return Reliability(edges, pairs, mean(confidence), mean(won))


def calibration(gaps: Float[np.ndarray, "M"], temperature: float) -> Calibration:
    """Every figure at one temperature, of at least one pair."""
    probability = probabilities(gaps, temperature)
    return Calibration(temperature, log_loss(gaps, temperature), brier(probability), reliability(probability))


def best_temperature(gaps: Float[np.ndarray, "M"]) -> float:
    """The T > 0 that minimises the log-loss of these pairs, so that rewards of any scale can be compared.

    The log-loss is convex in 1/T, so it has one minimum in log T. 1 if all gaps are 0: no temperature matters.
    """
    scale = float(np.abs(gaps).mean())
    if scale == 0:
        return 1.0
    # In units of the mean gap: the search then does not depend on the scale of the rewards.
    relative = gaps / scale
    found = minimize_scalar(
        lambda log_t: log_loss(relative, float(np.exp(log_t))),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return scale * float(np.exp(found.x))


@dataclasses.dataclass(frozen=True)
class Bayes:
    """Beside the best that can be: ``accuracy`` and ``log_loss`` (nats per pair) of a model that knows the truth, and
    the model's own ``excess_log_loss`` over it, which is the mean KL divergence of the truth from its probabilities.
    """

    accuracy: float
    log_loss: float
    excess_log_loss: float


def bayes(probability: Float[np.ndarray, "M"], true_probability: Float[np.ndarray, "M"]) -> Bayes:
    """Compare the model's probability with the true one, of the same outcome of each pair, whichever that is.

    Accuracy: mean max(q, 1 - q). Log-loss: the mean entropy of q. Excess: mean q log(q / p) + (1 - q) log((1 - q) /
    (1 - p)), so that expected log-loss = entropy + excess (Cover and Thomas 2006, section 2.3). Infinite where the
    model gives probability 0 to what happens.
    """
    q, p = true_probability, probability
    entropy = -(xlogy(q, q) + xlogy(1 - q, 1 - q))
    cross = -(xlogy(q, p) + xlogy(1 - q, 1 - p))
    return Bayes(float(np.maximum(q, 1 - q).mean()), float(entropy.mean()), float((cross - entropy).mean()))
