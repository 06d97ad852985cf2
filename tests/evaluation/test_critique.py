"""Critiques as a model wrote them, measured and shown."""

import numpy as np
import pytest

from rlhf_jax.data.records import Record, Response
from rlhf_jax.evaluation.critique import critique_metrics, critique_rows


def test_metrics_by_hand() -> None:
    written = [["so  good .", "so bad ."], ["it is good !", "anything"]]
    given = [["so good .", "so good ."], ["good", ""]]
    found = critique_metrics(written, given, np.array([4, 4, 5, 2]), np.array([True, True, True, False]))
    assert found == {
        "critique_length": pytest.approx(15 / 4),
        "critique_ended": 0.75,
        "critique_unique": 1.0,
        "critique_exact": pytest.approx(1 / 3),  # the first; nothing was given for the last
        "critique_verdict": pytest.approx(2 / 3),  # the first and the third
    }
    assert "critique_exact" not in critique_metrics([["a"]], [[""]], np.array([2]), np.array([True]))


def test_rows_show_best_and_worst_in_turn_and_clean_text() -> None:
    records = [
        Record(str(i), f"p{i}", (Response(f"best{i}", 0, 1.0), Response(f"worst{i}", 1, 0.0)), "open") for i in range(5)
    ]
    written = [[f"well\x1b[31m {i}\u202e", f"poor {i}"] for i in range(5)]
    rewards = np.array([[0.9, 0.1]] * 5)
    rows = critique_rows(records, written, rewards, 3)
    assert [row["response"] for row in rows] == ["best0", "worst2", "best4"]
    assert [row["critique"] for row in rows] == ["well 0", "poor 2", "well 4"]
    assert [(row["proxy"], row["gold"]) for row in rows] == [(0.9, 1.0), (0.1, 0.0), (0.9, 1.0)]
    assert critique_rows(records, written, rewards, 0) == []
