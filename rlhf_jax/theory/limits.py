"""Limit laws as functions, and how far n rewards are from one."""

import numpy as np
from jaxtyping import Float
from scipy.special import betainc, betaincinv

from rlhf_jax.objectives.utilities import LimitLaw


def cdf(law: LimitLaw, x: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """P(reward <= x) for x in [0, 1], from the right: at 0 it is the atom there, at 1 it is 1."""
    x = np.asarray(x, float)
    rest = 1.0 - 2.0 * law.atom
    inner = law.atom + (rest * betainc(law.a, law.b, x) if rest > 0 else 0.0)
    return np.where(x >= 1.0, 1.0, inner)


def quantile(law: LimitLaw, p: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """The smallest reward with cdf >= p, for p in [0, 1]; the middle of a law of two atoms is left to the lower."""
    p = np.asarray(p, float)
    rest = 1.0 - 2.0 * law.atom
    if rest <= 0:
        return np.where(p > 0.5, 1.0, 0.0)
    return betaincinv(law.a, law.b, np.clip((p - law.atom) / rest, 0.0, 1.0))


def wasserstein_1(rewards: Float[np.ndarray, "n"], law: LimitLaw) -> float:
    """The area between the two quantile functions, in the unit of rewards; exact up to rounding.

    On ((i - 1) / n, i / n) the empirical quantile is a constant c, and the law's Q crosses it once, at p = F(c). With
    M(p) the integral of Q up to p, known in closed form, each strip is an exact sum.
    """
    c = np.sort(np.asarray(rewards, float))
    edges = np.arange(len(c) + 1) / len(c)
    low, high = edges[:-1], edges[1:]
    cross = np.clip(cdf(law, c), low, high)
    below = c * (cross - low) - (_mean_up_to(law, cross) - _mean_up_to(law, low))
    above = (_mean_up_to(law, high) - _mean_up_to(law, cross)) - c * (high - cross)
    return float(np.sum(np.abs(below) + np.abs(above)))


def _mean_up_to(law: LimitLaw, p: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """The integral of the quantile function from 0 to p."""
    at_one = np.maximum(p - (1.0 - law.atom), 0.0)
    rest = 1.0 - 2.0 * law.atom
    if rest <= 0:
        return at_one
    inner = np.clip((p - law.atom) / rest, 0.0, 1.0)
    # From the nearer end: close to 1 the quantile itself would round to 1 and with it a part of the mass.
    from_one = law.a / (law.a + law.b) - (1.0 - inner) + _beta_mean(law.b, law.a, 1.0 - inner)
    return at_one + rest * np.where(inner <= 0.5, _beta_mean(law.a, law.b, inner), from_one)


def _beta_mean(a: float, b: float, p: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """The integral of the quantile function of Beta(a, b) from 0 to p.

    x times the density of Beta(a, b) is a / (a + b) times that of Beta(a + 1, b).
    """
    return a / (a + b) * betainc(a + 1.0, b, betaincinv(a, b, p))


def kolmogorov_smirnov(rewards: Float[np.ndarray, "n"], law: LimitLaw) -> float:
    """The largest difference of the two distribution functions, in [0, 1]; at an atom of both they may agree."""
    c, counts = np.unique(np.asarray(rewards, float), return_counts=True)
    upto = np.cumsum(counts) / np.sum(counts)
    before = upto - counts / np.sum(counts)
    # From the left at each reward. At 1 the law is rounded as the rewards were: Beta(0.1, 0.1) has 2 % within 2^-54.
    rounded = law.atom + (1.0 - 2.0 * law.atom) * betainc(law.b, law.a, 2.0**-54)
    left = np.where(c <= 0.0, 0.0, np.where(c >= 1.0, 1.0 - rounded, cdf(law, c)))
    inside = np.max(np.abs(np.concatenate([upto - cdf(law, c), before - left])))
    # An atom where there is no reward at all.
    ends = max(law.atom if c[0] > 0.0 else 0.0, law.atom if c[-1] < 1.0 else 0.0)
    return float(max(inside, ends))
