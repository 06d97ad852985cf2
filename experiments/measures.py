"""What the experiments measure: calibration of pairs, the KL-regularised optimum on finitely many answers.

NumPy in, numbers out; no JAX.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import t

BINS = 10


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """(mean, half width of Student's 95 % interval) over seeds; NaN half width of fewer than two."""
    found = np.asarray(values, float)
    if len(found) < 2:
        return float(found.mean()), float("nan")
    half = t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def temperature(gaps: Float[np.ndarray, "P"], right: Bool[np.ndarray, "P"]) -> float:
    """The T > 0 under which sigmoid(gap / T) fits best (log-likelihood) whether the pair was labelled so: ``right``."""
    signed = np.where(right, gaps, -gaps)
    found = minimize_scalar(
        lambda log_t: -log_expit(signed / np.exp(log_t)).mean(), bounds=(-7.0, 4.0), method="bounded"
    )
    return float(np.exp(found.x))


def pair_ece(gaps: Float[np.ndarray, "P"], right: Bool[np.ndarray, "P"], bins: int = BINS) -> float:
    """Expected calibration error of pairs: sum over bins of share x |accuracy - mean confidence|.

    Each pair is turned to its predicted winner; its confidence s(|gap|) lies in [1/2, 1], cut into ``bins``
    equal parts. ``right``: the first of the pair was labelled the better one. A gap of 0 predicts the first.
    """
    confidence = expit(np.abs(gaps))
    hit = np.where(gaps >= 0, right, ~right)
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    difference = np.abs(np.bincount(place, hit, bins) - np.bincount(place, confidence, bins))
    return float(difference.sum() / counts.sum())


def tilted(rewards: Float[np.ndarray, "N"], reference: Float[np.ndarray, "N"], beta: float) -> Float[np.ndarray, "N"]:
    """The policy that maximises E[reward] - beta KL(policy || reference): reference x exp(reward / beta)."""
    logits = np.log(reference) + rewards / beta
    return np.exp(logits - logsumexp(logits))


def kl(policy: Float[np.ndarray, "N"], reference: Float[np.ndarray, "N"]) -> float:
    """KL(policy || reference) in nats."""
    held = policy > 0
    return float(np.sum(policy[held] * np.log(policy[held] / reference[held])))


def entropy(policy: Float[np.ndarray, "N"]) -> float:
    """In nats."""
    held = policy[policy > 0]
    return float(-np.sum(held * np.log(held)))


def beta_at_kl(
    rewards: Sequence[Float[np.ndarray, "N"]],
    reference: Sequence[Float[np.ndarray, "N"]],
    target: float,
    least: float = 1e-3,
) -> float | None:
    """The one beta at which the optima of all prompts lie ``target`` nats from the reference on average.

    None if even ``least`` brings them less far: equal rewards of many answers cannot tell these apart.
    """

    def missing(log_beta: float) -> float:
        beta = float(np.exp(log_beta))
        return float(np.mean([kl(tilted(r, p, beta), p) for r, p in zip(rewards, reference, strict=True)])) - target

    low, high = np.log(least), np.log(1e3)
    if missing(low) < 0:
        return None
    return float(np.exp(brentq(missing, low, high, xtol=1e-6)))
