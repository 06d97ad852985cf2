"""Points, intervals and ranks against scipy, Optuna and worked examples."""

import csv
import json
import pathlib

import numpy as np
import optuna
import pytest
from scipy import stats

from rlhf_jax.diagnostics.intervals import half_width
from rlhf_jax.diagnostics.ranking import behind
from rlhf_jax.errors import UserError
from rlhf_jax.reports import trials
from rlhf_jax.sweeps.folder import read_trials
from rlhf_jax.sweeps.results import (
    as_csv,
    as_json,
    counted,
    front,
    points_of,
    ranked,
    write_results,
)
from tests.sweeps.standin import ACCURACY, GAMMA, LOSS, begin, made


def test_the_interval_is_student_s() -> None:
    values = [0.5, 0.75, 0.625, 0.5]
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert half_width(values) == pytest.approx((interval.high - interval.low) / 2)
    # By hand: n = 2, s = |a - b| / sqrt 2, t_{0.975, 1} = 12.7062; so 12.7062 |a - b| / 2.
    assert half_width([1.0, 2.0]) == pytest.approx(6.3531, abs=1e-4)
    assert half_width([1.0]) is None
    assert half_width([]) is None


def sweep_of(folder: pathlib.Path) -> None:
    """Three exponents, three seeds; of the last point one trial failed and one is not made."""
    spec = begin(folder, seeds=(0, 1, 2), objectives=(ACCURACY, LOSS))
    accuracy = [0.5, 0.75, 0.25, 0.625, 0.75, 0.5, 0.875]
    loss = [1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 9.0]
    for number, (a, b) in enumerate(zip(accuracy, loss, strict=True)):
        made(folder, spec, number, pair_accuracy=a, loss=b)
    made(folder, spec, 7, state="failed", reason="no memory")


def test_points_are_ranked_by_their_means_with_what_is_known_of_each(tmp_path: pathlib.Path) -> None:
    sweep_of(tmp_path)
    points = points_of(counted(read_trials(tmp_path), (ACCURACY, LOSS)))
    assert [point.number for point in ranked(points, ACCURACY)] == [1, 0, 2]  # a seed of the last failed
    assert [point.number for point in ranked(points, LOSS)] == [0, 1, 2]
    assert [point.mean(ACCURACY) for point in points] == [0.5, 0.625, 0.875]
    report = trials.read_sweep(tmp_path)
    for objective, order in ((ACCURACY, [1, 0, 2]), (LOSS, [0, 1, 2])):  # a report says the same
        assert [point.name for point in report.ranked(objective)] == [f"point {number}" for number in order]
    assert points[2].values(LOSS) == {0: 9.0}


def test_how_far_behind_the_best_is_a_paired_comparison(tmp_path: pathlib.Path) -> None:
    sweep_of(tmp_path)
    points = points_of(read_trials(tmp_path))
    gap, width = behind(ACCURACY, points[0].values(ACCURACY), points[1].values(ACCURACY))
    paired = stats.ttest_rel([0.625, 0.75, 0.5], [0.5, 0.75, 0.25]).confidence_interval(0.95)
    assert gap == pytest.approx(0.125)
    assert width == pytest.approx((paired.high - paired.low) / 2)
    # Less is better, and seed 0 is all that both have.
    assert behind(LOSS, points[2].values(LOSS), points[0].values(LOSS)) == (8.0, None)
    assert behind(LOSS, points[0].values(LOSS), points[0].values(LOSS)) == (0.0, 0.0)
    assert behind(LOSS, {5: 1.0}, points[0].values(LOSS)) is None


def test_the_front_is_optuna_s(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    spec = begin(tmp_path, seeds=(0,), points=30, objectives=(ACCURACY, LOSS))
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(30):
        a, b = (float(x) for x in rng.integers(0, 8, 2))  # with ties
        made(tmp_path, spec, number, {GAMMA: 0.5 + number}, pair_accuracy=a, loss=b)
        study.add_trial(optuna.trial.create_trial(values=[a, b]))
    found = front(points_of(read_trials(tmp_path)), (ACCURACY, LOSS))
    assert found == {trial.number for trial in study.best_trials}
    assert 1 < len(found) < 30


def test_what_is_written_is_what_the_trials_say(tmp_path: pathlib.Path) -> None:
    sweep_of(tmp_path)
    from rlhf_jax.sweeps.folder import read_sweep

    spec, own = read_sweep(tmp_path), read_trials(tmp_path)
    found = write_results(tmp_path, spec, own)
    assert json.loads((tmp_path / "results.json").read_text()) == found == as_json(spec, own)
    assert found["states"] == {"done": 7, "failed": 1}
    last = found["points"][-1]
    assert (last["point"], last["parameters"], last["trials"], last["seeds"]) == (2, {GAMMA: 2.0}, [6, 7], [0, 1])
    assert last["states"] == ["done", "failed"]
    assert last["reasons"] == ["", "no memory"]
    assert last["values"] == {"reward.pair_accuracy": [0.875, None], "reward.loss": [9.0, None]}
    assert last["half_width"] == {"reward.pair_accuracy": None, "reward.loss": None}
    assert last["behind"] == {"reward.pair_accuracy": -0.25, "reward.loss": 8.0}
    assert [point["front"] for point in found["points"]] == [True, True, True]
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert (tmp_path / "results.csv").read_text() == as_csv(own)
    assert len(rows) == 8
    assert rows[3] == {
        "trial": "3",
        "point": "1",
        "seed": "0",
        "state": "done",
        "reason": "",
        GAMMA: "1.0",
        "reward.loss": "2.0",
        "reward.pair_accuracy": "0.625",
    }
    assert rows[7]["reward.loss"] == ""


def test_a_figure_that_is_no_number_fails_its_trial_and_one_that_is_not_there_is_told(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path)
    made(tmp_path, spec, 0, pair_accuracy=float("nan"), kendall_tau=0.5)
    (trial,) = counted(read_trials(tmp_path), spec.objectives)
    assert (trial.state, trial.reason) == ("failed", "reward.pair_accuracy is nan")
    made(tmp_path, spec, 1, loss=1.0, kendall_tau=0.5)
    with pytest.raises(
        UserError, match=r"reward.pair_acuracy: no such figure in .*; did you mean reward.pair_accuracy\?"
    ):
        counted(read_trials(tmp_path), (type(ACCURACY)("reward.pair_acuracy", "max"),))
