"""Best-of-n by enumeration, and its distance from the policy on many distinct answers."""

import itertools

import numpy as np
import pytest

from rlhf_jax.diagnostics.best_of_n import best_of_n, best_of_n_kl_bound


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("proxy", [(0.3, 0.1, 0.9, 0.4, 0.2), (0.3, 0.9, 0.9, 0.3, 0.9)], ids=["strict", "ties"])
def test_best_of_n_is_the_mean_over_all_subsets(n: int, proxy: tuple[float, ...]) -> None:
    """Among equal winners the choice is by chance."""
    scores, gold = np.array(proxy), np.array([1.0, 0.0, 0.25, 0.5, 0.75])
    wins = []
    for subset in itertools.combinations(range(5), n):
        best = max(scores[i] for i in subset)
        wins.append(np.mean([gold[i] for i in subset if scores[i] == best]))
    assert best_of_n(scores, gold, n) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_the_kl_bound_is_reached_on_many_distinct_answers(n: int) -> None:
    """Of N equally likely answers the i-th from below is the best of n with probability (i/N)^n - ((i-1)/N)^n."""
    size = 100_000
    chance = np.diff((np.arange(size + 1) / size) ** n)
    chance = chance[chance > 0]
    exact = float(np.sum(chance * np.log(chance * size)))
    assert exact == pytest.approx(best_of_n_kl_bound(n), abs=2e-3)
    assert exact <= best_of_n_kl_bound(n) + 1e-12


def test_the_kl_bound_is_loose_where_rewards_are_few() -> None:
    """Right or wrong, right with probability 0.3: 1.179 nats at n = 16, where the bound is 1.835."""
    n, p = 16, 0.3
    right = 1 - (1 - p) ** n
    exact = right * np.log(right / p) + (1 - right) * np.log((1 - right) / (1 - p))
    assert exact == pytest.approx(1.179, abs=1e-3)
    assert best_of_n_kl_bound(n) == pytest.approx(1.835, abs=1e-3)
