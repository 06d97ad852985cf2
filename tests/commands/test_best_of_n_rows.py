"""The rows of ``rlhf-jax best-of-n`` from scores worked by hand."""

import numpy as np
import pytest

from rlhf_jax.commands.best_of_n import by_n


def test_the_kl_of_right_or_wrong_answers_is_that_of_two_coins() -> None:
    """Of 10 answers 3 are right to one prompt, 5 to the other: P = 1 - (1 - p)^n from p, the mean of the two."""
    scores = np.array([[1.0] * 3 + [0.0] * 7, [1.0] * 5 + [0.0] * 5])
    rows = {row.n: row for row in by_n(scores, None)}
    assert list(rows) == [1, 2, 4, 8, 10]
    for n, row in rows.items():
        coins = []
        for p in (0.3, 0.5):
            right = 1 - (1 - p) ** n
            coins.append(right * np.log(right / p) + (1 - right) * np.log((1 - right) / (1 - p)))
        assert row.kl == pytest.approx(np.mean(coins), abs=1e-12)
        assert row.kl <= row.kl_bound + 1e-12
