"""Closed forms of the linear proxy, and sums over all responses for any other. NumPy, divergences in nats."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit, logsumexp, rel_entr
from scipy.stats import binom

from experiments.overoptimisation.world import BEST, HORIZON, SHARE, coded_gold
from rlhf_jax.diagnostics.best_of_n import best_of_n_kl, best_of_n_law

SLOPE = 1.0 / HORIZON  # reward per spice of the linear proxy
DEVIATION = SLOPE * np.sqrt(HORIZON * SHARE * (1.0 - SHARE))  # of the linear proxy under the reference

Curve = dict[str, Float[np.ndarray, "N"]]


def linear_optimum(beta: Float[np.ndarray, "N"]) -> Curve:
    """``kl``, ``proxy`` and ``gold`` of the best policy at each price, for fixed responses and the linear proxy.

    It is again independent from word to word: a spice has logit(p) + slope / beta. With T words of which c are spices,
    E c = T p', Var c = T p' (1 - p'), and the gold 1 - ((c - 5) / 5)^2 is 1 - (Var c + (E c - 5)^2) / 25.
    """
    share = expit(logit(SHARE) + SLOPE / beta)
    mean, variance = HORIZON * share, HORIZON * share * (1.0 - share)
    return {
        "kl": HORIZON * (rel_entr(share, SHARE) + rel_entr(1.0 - share, 1.0 - SHARE)),
        "proxy": SLOPE * mean,
        "gold": 1.0 - (variance + (mean - BEST) ** 2) / BEST**2,
    }


def linear_best_of_n(sizes: Sequence[int]) -> Curve:
    """The same of best-of-n: the largest of n binomial counts."""
    spices = np.arange(HORIZON + 1)
    return best_of_n_curve(SLOPE * spices, coded_gold(spices), binom.pmf(spices, HORIZON, SHARE), sizes)


def optimum(
    proxy: Float[np.ndarray, "S"],
    gold: Float[np.ndarray, "S"],
    law: Float[np.ndarray, "S"],
    beta: Float[np.ndarray, "N"],
) -> Curve:
    """The same for any proxy over finitely many responses: law x exp(proxy / beta), summed."""
    held = law > 0
    proxy, gold, start = proxy[held], gold[held], np.log(law[held])
    rows = []
    for price in beta:
        logs = start + proxy / price
        logs -= logsumexp(logs)
        best = np.exp(logs)
        rows.append((best @ (logs - start), best @ proxy, best @ gold))
    return dict(zip(("kl", "proxy", "gold"), np.array(rows).T, strict=True))


def best_of_n_curve(
    proxy: Float[np.ndarray, "S"], gold: Float[np.ndarray, "S"], law: Float[np.ndarray, "S"], sizes: Sequence[int]
) -> Curve:
    """The same of best-of-n under any proxy; equal proxies are broken at random."""
    held = law > 0
    tiers, tier = np.unique(proxy[held], return_inverse=True)
    mass = np.bincount(tier, law[held])
    worth = np.bincount(tier, law[held] * gold[held]) / mass
    winners = [best_of_n_law(tiers, mass, n) for n in sizes]
    return {
        "kl": np.array([best_of_n_kl(tiers, mass, n) for n in sizes]),
        "proxy": np.array([winner @ tiers for winner in winners]),
        "gold": np.array([winner @ worth for winner in winners]),
    }
