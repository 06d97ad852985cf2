"""Spread against errors: by hand, against its definition, and on ensembles that know or do not know their errors."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rlhf_jax.diagnostics.spread import auroc, measure_spread, spread_bins, spread_metrics


def test_two_members_by_hand() -> None:
    """One list a > b > c. Rewards of the members: a (1, .8), b (.4, .6), c (.5, .7).

    Deviations .1, .1, .1. Gaps ab (.6, .2): mean .4, spread .2; ac (.5, .1): .3, .2; bc (-.1, -.1): wrong, spread 0.
    """
    members = np.array([[[1.0, 0.8], [0.4, 0.6], [0.5, 0.7]]])
    better = np.triu(np.ones((3, 3), bool), 1)[None]
    found = measure_spread(members, better, np.ones((1, 3), bool))
    assert found.spread == pytest.approx(0.1)
    assert found.pair_spread == pytest.approx(0.4 / 3)
    assert found.auroc == 0.0
    assert [(one.pairs, one.accuracy) for one in found.bins] == [(1, 0.0), (1, 1.0), (1, 1.0)]
    assert set(spread_metrics(found)) == {"spread", "spread_error_correlation", "spread_auroc"}


def test_auroc_is_the_share_of_pairs() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 5, 30) / 1.0, rng.integers(0, 4, 40) / 1.0
    wins = np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative))
    assert auroc(positive, negative) == pytest.approx(wins)
    assert auroc(positive, negative[:0]) is None


def noisy(scale_of_members: bool, seed: int = 0):
    """Members around a truth; responses differ in how noisy they are, and the spread shows it or not."""
    rng = np.random.default_rng(seed)
    truth = np.sort(rng.normal(size=(200, 4)), axis=1)[:, ::-1]
    noise = rng.choice([0.05, 2.0], size=(200, 1, 1))
    shared = rng.normal(size=(200, 4, 1)) * noise
    own = rng.normal(size=(200, 4, 5)) * (noise if scale_of_members else 1.0)
    better = np.broadcast_to(np.triu(np.ones((4, 4), bool), 1), (200, 4, 4))
    return measure_spread(truth[:, :, None] + shared + own, better, np.ones((200, 4), bool))


def test_an_ensemble_that_knows_its_errors_and_one_that_does_not() -> None:
    knows, ignorant = noisy(True), noisy(False)
    assert knows.auroc > 0.75
    assert abs(ignorant.auroc - 0.5) < 0.06
    accuracies = [one.accuracy for one in knows.bins]
    assert accuracies[0] > 0.95 > 0.75 > accuracies[-1]
    assert sum(one.pairs for one in knows.bins) == 200 * 6


def test_the_correlation_is_with_the_error_of_the_mean() -> None:
    rng = np.random.default_rng(1)
    members, mask = rng.normal(size=(20, 3, 4)), rng.random((20, 3)) < 0.8
    better = np.broadcast_to(np.triu(np.ones((3, 3), bool), 1), (20, 3, 3))
    spreads, errors = [], []
    for row in range(20):
        for i in range(3):
            for j in range(i + 1, 3):
                if mask[row, i] and mask[row, j]:
                    gaps = members[row, i] - members[row, j]
                    spreads.append(np.sqrt(np.mean((gaps - gaps.mean()) ** 2)))
                    errors.append(1 - 1 / (1 + np.exp(-gaps.mean())))
    found = measure_spread(members, better, mask)
    assert found.error_correlation == pytest.approx(spearmanr(spreads, errors).statistic)
    assert found.pair_spread == pytest.approx(np.mean(spreads))


def test_nothing_to_measure_and_one_member() -> None:
    none = measure_spread(np.ones((1, 2, 3)), np.zeros((1, 2, 2), bool), np.zeros((1, 2), bool))
    assert spread_metrics(none) == {}
    assert none.bins == ()
    one = measure_spread(np.arange(2.0).reshape(1, 2, 1), np.ones((1, 2, 2), bool), np.ones((1, 2), bool))
    assert one.spread == 0.0
    assert one.error_correlation is None
    assert len(spread_bins(np.arange(3.0), np.ones(3, bool))) == 3
