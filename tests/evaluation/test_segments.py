"""Figures of verdicts against brute force."""

import math

import numpy as np
import pytest
from scipy.special import log_expit

from rlhf_jax.evaluation.segments import evaluate_segments, verdict_metrics
from rlhf_jax.metrics import unit_of
from rlhf_jax.types import SegmentBatch

UNITLESS = ("auc", "base_rate", "accuracy", "accuracy_base")


def test_figures_of_verdicts_by_brute_force() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(60) < 0.7).astype(float)
    logits = np.round(random.normal(size=60) + labels, 1)  # with ties
    found = verdict_metrics(logits, labels)
    good, bad = logits[labels == 1], logits[labels == 0]
    wins = [1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad]
    assert found["auc"] == pytest.approx(np.mean(wins))
    assert found["base_rate"] == pytest.approx(len(bad) / 60)
    assert found["accuracy_base"] == pytest.approx(max(len(bad), len(good)) / 60)
    assert found["accuracy"] == pytest.approx(((good >= 0).sum() + (bad < 0).sum()) / 60)
    assert found["cross_entropy"] == pytest.approx(-(log_expit(good).sum() + log_expit(-bad).sum()) / 60)
    p = len(good) / 60
    assert found["cross_entropy_base"] == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert sorted(found) == sorted([*UNITLESS, "cross_entropy", "cross_entropy_base"])
    assert all(unit_of(f"segments.{name}.plain") for name in found)


def test_of_one_class_there_is_no_curve_and_of_nothing_there_is_nothing() -> None:
    found = verdict_metrics(np.array([1.0, -1.0]), np.array([1.0, 0.5]))
    assert "auc" not in found
    assert found["base_rate"] == 0
    assert verdict_metrics(np.zeros(0), np.zeros(0)) == {}


def test_segments_of_all_batches_are_pooled_by_kind() -> None:
    labels = np.full((3, 4, 2), np.nan, np.float32)
    labels[0, 1, 0], labels[1, 3, 0], labels[1, 2, 1] = 1, 0, 1
    logits = np.full((3, 4, 2), 100.0, np.float32)
    logits[0, 1, 0], logits[1, 3, 0], logits[1, 2, 1] = -2, -1, 3
    ids, mask = np.zeros((3, 4), np.int32), np.zeros((3, 4), bool)
    batches = [SegmentBatch(ids[rows], mask[rows], labels[rows]) for rows in (np.s_[:1], np.s_[1:])]
    given = iter([(2.0, 1.0, logits[:1]), (5.0, 3.0, logits[1:])])
    found = evaluate_segments(lambda batch: next(given), batches, ("a", "b"))
    assert found["loss"] == pytest.approx(7 / 4)
    assert found["accuracy.a"] == 0.5
    assert found["auc.a"] == 0.0
    assert found["accuracy.b"] == 1.0
    assert "auc.b" not in found
