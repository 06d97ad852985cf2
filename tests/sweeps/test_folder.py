"""The folder of a sweep: nothing half-made, nothing made twice, another sweep refused."""

import dataclasses
import json
import pathlib

import pytest

from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.errors import UserError
from rlhf_jax.sweeps.folder import make_trial, open_sweep, read_sweep, read_trials
from rlhf_jax.sweeps.spec import from_json, to_json
from tests.sweeps.standin import GAMMA, begin, made, spec_of


def test_a_sweep_is_read_as_it_was_written(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path / "sweep")
    assert read_sweep(tmp_path / "sweep") == spec
    assert from_json(to_json(spec)) == spec
    assert spec.trials == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep"]  # what was prepared is gone
    with pytest.raises(UserError, match="no sweep there"):
        read_sweep(tmp_path)
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    with pytest.raises(UserError, match=r"^sweep.json: not what a sweep writes"):
        read_sweep(tmp_path / "sweep")


def test_the_same_sweep_goes_on_and_another_is_refused_with_what_differs(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path)
    open_sweep(tmp_path, spec, "")
    steps = json.loads(json.dumps(spec.config))
    steps["reward"]["steps"] = 7
    for changes, text in (
        ({"config": steps}, "config.reward.steps: 7, but the sweep has 1400"),
        ({"keys": ((GAMMA, "0.5,1.0"),)}, f"--sweep: {GAMMA}=0.5,1.0, but the sweep has {GAMMA}=0.5,1.0,2.0"),
        ({"seeds": (0,)}, "--seeds: 0, but the sweep has 0,1"),
        ({"sampler": "tpe", "seeds": (0, 1, 2)}, "--sampler: tpe, but the sweep has grid; --seeds: 0,1,2, but"),
        ({"file": "abc"}, "--space: not the file that the sweep was begun with"),
        ({"points": 2}, r"--points: 2, but the sweep in .* has 3; there may be more"),
    ):
        with pytest.raises(UserError, match=text):
            open_sweep(tmp_path, dataclasses.replace(spec, **changes), "")
    assert read_sweep(tmp_path) == spec
    # Of the same trials another question may be asked.
    other = dataclasses.replace(spec, objectives=(Objective("reward.loss", "min"),), pruner="median", failures=0.1)
    open_sweep(tmp_path, other, "")
    assert read_sweep(tmp_path) == other


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(UserError, match="not empty, and no sweep"):
        open_sweep(tmp_path, spec_of(), "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    open_sweep(empty, spec_of(file="abc"), "def space(trial): ...")
    assert (empty / "space.py").read_text() == "def space(trial): ..."


def test_a_trial_is_made_once_and_claimed_by_who_made_it(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path)
    assert make_trial(tmp_path, spec, 3, {GAMMA: 1.0}) == tmp_path / "trials" / "0003" / "claims" / "1.json"
    assert make_trial(tmp_path, spec, 3, {GAMMA: 0.5}) is None
    (trial,) = read_trials(tmp_path)
    assert (trial.number, trial.point, trial.seed, trial.parameters) == (3, 1, 1, {GAMMA: 1.0})
    assert (trial.state, trial.ended) == ("running", False)
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["0003"]


def test_a_worker_that_dies_while_it_makes_a_trial_leaves_it_to_be_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = begin(tmp_path)

    class Killed(BaseException):
        pass

    def dying(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", dying)
        with pytest.raises(Killed):
            make_trial(tmp_path, spec, 0, {GAMMA: 0.5})
    assert read_trials(tmp_path) == []  # what was prepared is passed over
    assert make_trial(tmp_path, spec, 0, {GAMMA: 0.5})
    assert [trial.number for trial in read_trials(tmp_path)] == [0]


def test_trials_are_what_their_folders_say(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path)
    made(tmp_path, spec, 0, pair_accuracy=0.75, curve=(0.5, float("nan"), 0.7))
    made(tmp_path, spec, 1, state="failed", reason="config.reward.steps: too few")
    made(tmp_path, spec, 2, state="pruned", curve=(0.25,))
    made(tmp_path, spec, 3, state="interrupted", reason="SIGTERM")
    made(tmp_path, spec, 4, state="running")
    found = read_trials(tmp_path)
    assert [trial.state for trial in found] == ["done", "failed", "pruned", "interrupted", "running"]
    assert [trial.ended for trial in found] == [True, True, True, False, False]
    assert [trial.reason for trial in found] == ["", "config.reward.steps: too few", "", "SIGTERM", ""]
    assert found[0].summary == {"reward.pair_accuracy": 0.75}
    assert found[0].curve("reward.pair_accuracy") == {10: 0.5, 30: 0.7}
    assert found[2].summary == {}
    (tmp_path / "trials" / "0002" / "trial.json").unlink()
    with pytest.raises(UserError, match=r"0002: no trial.json in it; rename the folder"):
        read_trials(tmp_path)
