"""Best-of-n: what the answer with the highest proxy among n is worth, and how far it is from one answer.

``best_of_n`` reads N >= n sampled answers, ``best_of_n_law`` and ``best_of_n_kl`` finitely many answers of known
probability. NumPy in, numbers out; divergences in nats.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln, xlogy


def best_of_n(proxy: Float[np.ndarray, "N"], values: Float[np.ndarray, "N"], n: int) -> float:
    """Mean value of the answer with the highest proxy among n drawn without replacement from these N, unbiased for n.

    Sorted by proxy, answer i (from 1) is the winner of C(i-1, n-1) of the C(N, n) draws. Equal proxies are broken at
    random, so each of them counts with the mean value of all. n is from 1 to N.
    """
    order = np.argsort(proxy, kind="stable")
    _, group = np.unique(proxy[order], return_inverse=True)
    shared = (np.bincount(group, values[order]) / np.bincount(group))[group]
    size = len(proxy)
    place = np.arange(n, size + 1)
    log_choose = gammaln(place) - gammaln(n) - gammaln(place - n + 1)
    log_all = gammaln(size + 1) - gammaln(n + 1) - gammaln(size - n + 1)
    return float(np.exp(log_choose - log_all) @ shared[n - 1 :])


def best_of_n_law(proxy: Float[np.ndarray, "K"], reference: Float[np.ndarray, "K"], n: int) -> Float[np.ndarray, "K"]:
    """The probability that each of K answers wins among n independent draws from ``reference``, of sum 1.

    With F the distribution function of the proxy under the reference, p(y) (F(r)^n - F(r-)^n) / (F(r) - F(r-)): equal
    proxies are broken at random, that is in proportion to the reference. With distinct proxies it is F^n - F-^n.
    """
    tier, mass, won = _tiers(proxy, reference, n)
    return reference * (won / np.where(mass > 0, mass, 1.0))[tier]


def best_of_n_kl(proxy: Float[np.ndarray, "K"], reference: Float[np.ndarray, "K"], n: int) -> float:
    """KL(best-of-n || reference) in nats, exactly, for n independent draws and ties broken at random.

    Inside a tier of equal proxies the ratio of probabilities is one number, so that only the tiers' masses matter: for
    a binary proxy, right with probability p, it is the KL of two coins, P = 1 - (1 - p)^n from p. It never exceeds
    minus the log of the best tier's mass, nor ``best_of_n_kl_bound``.
    """
    _, mass, won = _tiers(proxy, reference, n)
    held = won > 0
    return max(float(np.sum(won[held] * np.log(won[held] / mass[held]))), 0.0)


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n nats: what KL(best-of-n || policy) is for distinct rewards of a continuum, else less.

    An upper bound: Beirami et al. 2024 (arXiv 2401.01879).
    """
    return float(np.log(n) - (n - 1) / n)


def best_of_n_kl_estimate(probability: Float[np.ndarray, "S"], n: int) -> float:
    """KL(best-of-n || policy) in nats from the policy's ``probability`` e in (0, 1] of S answers that won among n.

    The mean of (1-e)^n (log n + (n-1) log(1-e) - (n-1)/n) + (1 - (1-e)^n) log((1 - (1-e)^n) / e). It needs no other
    answer's probability, and takes proxies to be distinct; with ties it estimates too much.
    Source: Beirami et al. 2024 (arXiv 2401.01879).
    """
    with np.errstate(divide="ignore"):
        miss = np.log1p(-probability)  # log of the probability of another answer
    lost = np.exp(n * miss)
    won = -np.expm1(n * miss)
    rest = lost * best_of_n_kl_bound(n) + (n - 1) * xlogy(lost, lost) / n
    return float(np.mean(rest + won * np.log(won / probability)))


def _tiers(
    proxy: Float[np.ndarray, "K"], reference: Float[np.ndarray, "K"], n: int
) -> tuple[Int[np.ndarray, "K"], Float[np.ndarray, "G"], Float[np.ndarray, "G"]]:
    """(the tier of each answer, tiers' masses under the reference, under best-of-n), the lowest proxy first."""
    _, tier = np.unique(proxy, return_inverse=True)
    mass = np.bincount(tier, reference)
    # By what lies at or above a tier: the masses of the best tiers are small, and 1 - F would have lost them.
    above = np.minimum(np.cumsum(mass[::-1])[::-1], 1.0)
    with np.errstate(divide="ignore"):
        below = n * np.log1p(-above)  # log F(r-)^n
    upto = np.append(below[1:], 0.0)
    reached = upto > -np.inf
    return tier, mass, np.where(reached, -np.exp(upto) * np.expm1(np.where(reached, below - upto, 0.0)), 0.0)
