"""Best-of-n by enumeration, and its distance from the policy on many distinct answers."""

import itertools

import numpy as np
import pytest

from rlhf_jax.diagnostics.best_of_n import (
    best_of_n,
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_kl_estimate,
    best_of_n_law,
)


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
    """Right or wrong, right with probability 0.3: two coins, 1.179 nats at n = 16, where the bound is 1.835."""
    n, p = 16, 0.3
    right = 1 - (1 - p) ** n
    coins = right * np.log(right / p) + (1 - right) * np.log((1 - right) / (1 - p))
    assert coins == pytest.approx(1.179, abs=1e-3)
    # The right answers are three, the wrong ones two: only the masses of the two kinds matter.
    proxy, reference = np.array([1.0, 0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.4, 0.15, 0.3, 0.05])
    assert best_of_n_kl(proxy, reference, n) == pytest.approx(coins, rel=1e-12)
    assert best_of_n_kl_bound(n) == pytest.approx(1.835, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("proxy", [(0.3, 0.1, 0.9, 0.4), (0.3, 0.9, 0.9, 0.3)], ids=["strict", "ties"])
def test_the_law_of_best_of_n_is_that_of_all_sequences_of_draws(n: int, proxy: tuple[float, ...]) -> None:
    """Independent draws, the winner by chance among equals, its law and its KL written out."""
    scores, reference = np.array(proxy), np.array([0.1, 0.2, 0.3, 0.4])
    law = np.zeros(4)
    for draws in itertools.product(range(4), repeat=n):
        winners = [i for i in draws if scores[i] == max(scores[j] for j in draws)]
        for winner in winners:
            law[winner] += np.prod(reference[list(draws)]) / len(winners)
    assert best_of_n_law(scores, reference, n) == pytest.approx(law, abs=1e-14)
    held = law > 0
    kl = np.sum(law[held] * np.log(law[held] / reference[held]))
    assert best_of_n_kl(scores, reference, n) == pytest.approx(kl, abs=1e-14)


def test_the_kl_saturates_at_the_best_answer_and_stays_exact_where_it_is_rare() -> None:
    """An answer of probability 1e-18 is lost in 1 - F, and still is what best-of-n tends to."""
    proxy, reference = np.array([0.0, 1.0]), np.array([1.0 - 1e-18, 1e-18])
    assert best_of_n_kl(proxy, reference, 10**20) == pytest.approx(-np.log(1e-18))
    few = best_of_n_law(proxy, reference, 1000)[1]
    assert few == pytest.approx(1e-15, rel=1e-9)  # n e, to first order


def test_a_worked_case_of_twenty_answers() -> None:
    """Distinct rewards: F^n - F-^n as it stands, between 0 and the bound; the estimator is near and no bound."""
    rng = np.random.default_rng(0)
    reference, proxy = rng.dirichlet(np.ones(20)), rng.random(20)
    for n in (4, 16, 256):
        order = np.argsort(proxy)
        upto = np.cumsum(reference[order])
        law = upto**n - np.append(0.0, upto[:-1]) ** n
        kl = np.sum(law * np.log(np.maximum(law, 1e-300) / reference[order]))
        assert best_of_n_kl(proxy, reference, n) == pytest.approx(kl, rel=1e-9)
        assert 0 < kl < best_of_n_kl_bound(n)
        estimated = sum(
            share * best_of_n_kl_estimate(np.array([e]), n) for share, e in zip(law, reference[order], strict=True)
        )
        assert estimated == pytest.approx(kl, abs=0.1)


def test_the_estimator_knows_its_two_ends() -> None:
    """Rare answers: the bound. An answer that is certain: nothing moves. One sure to win: minus log of its share."""
    assert best_of_n_kl_estimate(np.full(3, 1e-9), 8) == pytest.approx(best_of_n_kl_bound(8), abs=1e-6)
    assert best_of_n_kl_estimate(np.ones(2), 8) == 0.0
    # By hand for e = 0.3, n = 2: 0.49 (log 2 + log 0.7 - 1/2) + 0.51 log(0.51 / 0.3).
    assert best_of_n_kl_estimate(np.array([0.3]), 2) == pytest.approx(0.1904918, abs=1e-7)
    assert best_of_n_kl_estimate(np.array([0.25]), 10_000) == pytest.approx(-np.log(0.25))
