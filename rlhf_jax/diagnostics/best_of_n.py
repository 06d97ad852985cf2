"""Best-of-n: what the answer with the highest proxy among n is worth, from N >= n answers, and how far it is from one.

NumPy in, numbers out.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln


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


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n nats: what KL(best-of-n || policy) is for distinct rewards of a continuum, else less.

    An upper bound: Beirami et al. 2024 (arXiv 2401.01879).
    """
    return float(np.log(n) - (n - 1) / n)
