"""What the samplers and pruners are told, and that it is what Optuna would be told by one who kept a study."""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable
from typing import Literal

import optuna
import pytest

from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.errors import UserError
from rlhf_jax.sweeps.folder import Value, read_trials
from rlhf_jax.sweeps.sampling import suggest, worth_pruning
from rlhf_jax.sweeps.space import make_space, stream
from rlhf_jax.sweeps.spec import SweepSpec
from tests.sweeps.standin import ACCURACY, GAMMA, LOSS, begin, made

KEYS = ((GAMMA, "log:0.01:1"), ("reward.utility.name", "log,power"))
SPACE = make_space(None, KEYS)


def accuracy_of(point: dict[str, Value]) -> float:
    """Best at gamma = 0.1 under the utility power."""
    return 0.9 - (float(point[GAMMA]) - 0.1) ** 2 - (0.1 if point["reward.utility.name"] == "log" else 0.0)


def search(folder: pathlib.Path, spec: SweepSpec, points: int, figures: Callable[[dict[str, Value]], dict[str, float]]):
    """Points one after the other, each told to the sampler by its folder alone."""
    found = []
    for point in range(points):
        parameters = suggest(spec, SPACE, point, read_trials(folder))
        for place in range(len(spec.seeds)):
            made(folder, spec, point * len(spec.seeds) + place, parameters, **figures(parameters))
        found.append(parameters)
    return found


def test_a_study_made_anew_from_folders_suggests_what_one_that_was_kept_would(tmp_path: pathlib.Path) -> None:
    """The kept study is Optuna's own ask and tell; only the sampler's seed is set point by point."""
    spec = begin(tmp_path, keys=KEYS, sampler="tpe", points=16, seeds=(0, 1))
    found = search(tmp_path, spec, 16, lambda point: {"pair_accuracy": accuracy_of(point)})

    study = optuna.create_study(direction="maximize")
    for point, expected in enumerate(found):
        study.sampler = optuna.samplers.TPESampler(seed=stream(0, point), constant_liar=True)
        trial = study.ask()
        gamma = trial.suggest_float("gamma", 0.01, 1, log=True)
        name = trial.suggest_categorical("name", ("log", "power"))
        assert {GAMMA: gamma, "reward.utility.name": name} == expected, point
        study.tell(trial, accuracy_of(expected))
    late = [accuracy_of(point) for point in found[10:]]
    early = [accuracy_of(point) for point in found[:10]]
    assert sum(late) / len(late) > sum(early) / len(early)  # ten points are drawn before it models anything


@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_direction_is_heeded(tmp_path: pathlib.Path, direction: Literal["min", "max"]) -> None:
    """The loss grows with gamma, half of whose range lies below 0.1."""
    objectives = (Objective("reward.loss", direction),)
    spec = begin(tmp_path, keys=KEYS, sampler="tpe", points=30, seeds=(0,), objectives=objectives)
    found = search(tmp_path, spec, 30, lambda point: {"loss": float(point[GAMMA])})
    middle = statistics.median(float(point[GAMMA]) for point in found[15:])
    assert middle < 0.05 if direction == "min" else middle > 0.2


def test_several_objectives_are_sought_together(tmp_path: pathlib.Path) -> None:
    """Accuracy wants a large gamma and loss a small one: no point dominates another, and the search spreads."""
    spec = begin(tmp_path, keys=KEYS, sampler="tpe", points=25, seeds=(0,), objectives=(ACCURACY, LOSS))
    found = search(
        tmp_path, spec, 25, lambda point: {"pair_accuracy": float(point[GAMMA]), "loss": float(point[GAMMA])}
    )
    late = sorted(float(point[GAMMA]) for point in found[12:])
    assert late[0] < 0.1 < 0.3 < late[-1]


def test_points_that_others_run_are_known_and_those_that_failed_are_no_obstacle(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path, keys=KEYS, sampler="tpe", points=20, seeds=(0, 1))
    for point in range(12):
        parameters = suggest(spec, SPACE, point, read_trials(tmp_path))
        made(tmp_path, spec, 2 * point, parameters, pair_accuracy=accuracy_of(parameters))
        made(tmp_path, spec, 2 * point + 1, parameters, pair_accuracy=accuracy_of(parameters))
    alone = suggest(spec, SPACE, 14, read_trials(tmp_path))
    running = suggest(spec, SPACE, 12, read_trials(tmp_path))
    made(tmp_path, spec, 24, running, state="running")
    made(tmp_path, spec, 26, suggest(spec, SPACE, 13, read_trials(tmp_path)), state="failed", reason="nan")
    beside = suggest(spec, SPACE, 14, read_trials(tmp_path))
    assert beside != alone  # the same stream, and one more point that is under way


def test_a_point_that_was_pruned_counts_by_how_far_it_came(tmp_path: pathlib.Path) -> None:
    """As in a study that was told so; for several objectives it only has failed."""
    spec = begin(tmp_path, keys=KEYS, sampler="tpe", points=20, seeds=(0,))
    study = optuna.create_study(direction="maximize")
    for point in range(18):
        parameters = suggest(spec, SPACE, point, read_trials(tmp_path))
        curve = (0.1, accuracy_of(parameters) - 0.05)
        made(tmp_path, spec, point, parameters, state="pruned" if point else "done", curve=curve, pair_accuracy=0.7)
        study.sampler = optuna.samplers.TPESampler(seed=stream(0, point), constant_liar=True)
        trial = study.ask()
        gamma, name = trial.suggest_float("g", 0.01, 1, log=True), trial.suggest_categorical("n", ("log", "power"))
        assert (gamma, name) == tuple(parameters.values()), point
        for step, value in zip((10, 20), curve, strict=True):
            trial.report(value, step)
        study.tell(trial, None if point else 0.7, optuna.trial.TrialState.PRUNED if point else None)
    several = dataclasses.replace(spec, objectives=(ACCURACY, LOSS))
    trials = [one for one in read_trials(tmp_path) if one.state == "pruned"]
    assert suggest(several, SPACE, 18, trials).keys() == {GAMMA, "reward.utility.name"}


def test_a_trial_that_is_no_point_of_the_space_is_told(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path, keys=KEYS, sampler="tpe", points=2, seeds=(0,))
    made(tmp_path, spec, 0, {GAMMA: 3.0, "reward.utility.name": "log"}, pair_accuracy=0.5)
    with pytest.raises(UserError, match=r"0000/trial.json: not a point of the space"):
        suggest(spec, SPACE, 1, read_trials(tmp_path))


def test_the_median_pruner_ends_what_falls_behind_the_median_of_its_step() -> None:
    others = [({10: value, 20: value + 0.1}, value + 0.2) for value in (0.1, 0.2, 0.3, 0.4)]  # median at 20: 0.35
    assert worth_pruning("median", ACCURACY, others, {10: 0.2, 20: 0.34})
    assert not worth_pruning("median", ACCURACY, others, {10: 0.2, 20: 0.36})
    assert not worth_pruning("median", ACCURACY, others[:3], {10: 0.0, 20: 0.0})  # too few to judge by
    assert worth_pruning("median", LOSS, others, {10: 0.5, 20: 0.36})
    assert not worth_pruning("median", LOSS, others, {10: 0.5, 20: 0.34})


def test_successive_halving_lets_the_best_third_of_a_rung_go_on() -> None:
    """Rungs at 10 and at 30 steps; at 10 there are three values, of which one goes on."""
    others = [({10: 0.5, 20: 0.5, 30: 0.6}, 0.6), ({10: 0.4}, None)]
    assert worth_pruning("halving", ACCURACY, others, {10: 0.45})
    assert not worth_pruning("halving", ACCURACY, others, {10: 0.55})
    assert not worth_pruning("halving", ACCURACY, others, {10: 0.55, 20: 0.1})  # between two rungs
    assert worth_pruning("halving", ACCURACY, others, {10: 0.55, 20: 0.1, 30: 0.1})
    assert worth_pruning("halving", LOSS, others, {10: 0.45})
