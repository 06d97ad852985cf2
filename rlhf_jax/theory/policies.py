"""The policy that a reward asks for at the price of an f-divergence from a reference, over finitely many responses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import logsumexp

from rlhf_jax.objectives.divergences import Divergence, ReverseKL, TotalVariation


class BestPolicy(NamedTuple):
    """The maximiser of E_pi r - beta D_f(pi || ref), that maximum, and the multiplier lambda of sum pi = 1."""

    policy: Float[np.ndarray, "K"]
    value: float
    multiplier: float


def optimal_policy(
    rewards: Float[np.ndarray, "K"], reference: Float[np.ndarray, "K"], beta: float, divergence: Divergence
) -> BestPolicy:
    """pi(y) = ref(y) u(y), u = (f')^-1((r(y) - lambda) / beta), lambda such that the sum is 1.

    A response that the reference never gives stays at 0, whatever its reward, which may be NaN. Of the reverse KL this
    is ref e^{r / beta} / Z. Of the total variation what lies more than beta below the best gives all it has to the best
    ones, who share it as in the reference.

    Raises:
      ValueError: the reference is no law, beta is not a positive number, or a reward in the support is not finite.
    """
    rewards, reference = np.asarray(rewards, float), np.asarray(reference, float)
    _check(rewards, reference, beta)
    support = reference > 0
    gains, ref = rewards[support], reference[support] / reference.sum()
    best = float(gains.max())
    gaps = (best - gains) / beta
    if isinstance(divergence, TotalVariation):
        ratios, slope = _moved(gaps, ref), 0.5
    elif isinstance(divergence, ReverseKL):
        log_sum = float(logsumexp(-gaps, b=ref))
        ratios, slope = np.exp(-gaps - log_sum), 1.0 - log_sum
    else:
        ratios, slope = _root(gaps, ref, divergence)
    policy = np.zeros_like(reference)
    policy[support] = ref * ratios / np.sum(ref * ratios)
    with jax.enable_x64(True):
        price = float(np.sum(ref * np.asarray(divergence.value(jnp.asarray(policy[support] / ref)))))
    return BestPolicy(policy, float(policy[support] @ gains) - beta * price, best - beta * slope)


def _root(
    gaps: Float[np.ndarray, "K"], ref: Float[np.ndarray, "K"], divergence: Divergence
) -> tuple[Float[np.ndarray, "K"], float]:
    """(u, f' at the best response): u_i = (f')^-1(w - gap_i), with the w for which sum ref u = 1.

    The sum rises with w. At w = f'(1) no u exceeds 1. At w = f'(1) + the largest gap none is below 1, and at
    w = f'(1 / ref(best)) the best responses alone make a sum of 1: the lower of the two is the other end.
    """

    def ratios(w: float) -> Float[np.ndarray, "K"]:
        with jax.enable_x64(True):
            return np.asarray(divergence.inverse_slope(jnp.asarray(w - gaps)))

    def excess(w: float) -> float:
        return float(ref @ ratios(w)) - 1.0

    with jax.enable_x64(True):
        alone = float(divergence.slope(jnp.asarray(1.0 / np.sum(ref[gaps == 0.0]))))
    low = divergence.slope_at_one
    high = min(low + float(gaps.max()), alone)
    if excess(low) >= 0.0:  # equal rewards: the reference itself
        return ratios(low), low
    if excess(high) <= 0.0:  # the rest has no mass that float64 could tell
        return ratios(high), high
    w = float(brentq(excess, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=500))
    return ratios(w), w


def _moved(gaps: Float[np.ndarray, "K"], ref: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """u under the total variation: moving mass to the best costs beta per unit, and pays what the gap is."""
    kept = (gaps <= 1.0).astype(float)
    best = gaps == 0.0
    return kept + np.where(best, np.sum(ref * (1.0 - kept)) / np.sum(ref[best]), 0.0)


def _check(rewards: Float[np.ndarray, "K"], reference: Float[np.ndarray, "K"], beta: float) -> None:
    if np.any(~(reference >= 0)) or not np.isclose(reference.sum(), 1.0, atol=1e-6):
        raise ValueError("reference must hold probabilities of sum 1")
    if not (beta > 0 and np.isfinite(beta)):
        raise ValueError(f"beta is a positive price, not {beta}")
    if not np.all(np.isfinite(rewards[reference > 0])):
        raise ValueError("rewards of responses that the reference gives must be finite")
