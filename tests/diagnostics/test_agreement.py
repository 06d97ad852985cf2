"""Agreement of annotators against Krippendorff's published example and SciPy's Friedman statistic."""

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, spearmanr

from rlhf_jax.diagnostics.agreement import kendall_w, krippendorff_alpha

N = np.nan
# Four observers, twelve units, five values, some missing. Krippendorff 2011, section E; its alphas are below.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, alpha):
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_of_two_annotators_by_hand():
    # Units (a,a) (a,b) (b,b): coincidences aa 2, bb 2, ab 1 + 1; disagreement 2 of 6 against 3 * 3 * 2 / (6 * 5).
    values = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    assert krippendorff_alpha(values) == pytest.approx(1 - (2 / 6) / (18 / 30))


def test_alpha_where_nothing_can_differ():
    assert krippendorff_alpha(np.array([[1.0, N], [N, 2.0]])) is None
    assert krippendorff_alpha(np.ones((2, 3))) == 1.0
    assert krippendorff_alpha(np.array([[0.0, 1.0], [1.0, 0.0]])) < 0


def test_alpha_of_coins_is_near_nothing():
    coins = np.random.default_rng(0).integers(0, 2, (2, 20_000)).astype(float)
    assert abs(krippendorff_alpha(coins)) < 0.02


@pytest.mark.parametrize("ties", [False, True])
def test_w_is_friedmans_statistic(ties):
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 3, (5, 6)).astype(float) if ties else rng.normal(size=(5, 6))
    statistic = friedmanchisquare(*scores.T).statistic
    assert kendall_w(scores) == pytest.approx(statistic / (5 * (6 - 1)))


def test_w_is_the_mean_rank_correlation():
    scores = np.random.default_rng(2).normal(size=(4, 7))
    pairs = [spearmanr(scores[i], scores[j]).statistic for i in range(4) for j in range(i)]
    assert (4 * kendall_w(scores) - 1) / 3 == pytest.approx(np.mean(pairs))


def test_w_of_the_same_and_of_opposite_rankings():
    order = np.arange(5.0)
    assert kendall_w(np.stack([order, order, order])) == pytest.approx(1)
    assert kendall_w(np.stack([order, -order])) == pytest.approx(0)
    assert kendall_w(order[None]) is None
    assert kendall_w(np.zeros((3, 4))) is None
