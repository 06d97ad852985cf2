"""Trackers with stand-ins for W&B and trackio: what is sent, what goes on after a stop, and what a failure does."""

import json
import pathlib
import sys
import types
from typing import Any

import pytest

from rlhf_jax.config import default_config, names, validate
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import MetricWriter, read_metrics
from rlhf_jax.trackers import STATE, TRACKERS, Trackers, check_trackers


class Module(types.ModuleType):
    """Either library, as far as it is used; ``runs`` are those on its side, by what they go on by."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.runs: dict[str, list[tuple[dict[str, float], int | None]]] = {}
        self.opened: list[dict[str, Any]] = []
        self.drawn_against: dict[str, str] = {}
        self.ends: list[int | None] = []
        self.broken = ""
        self.Settings = dict

    def init(self, **words: Any) -> "Module":
        self._fail("init")
        assert words["resume"] == "allow"
        self.opened.append(words)
        self._rows = self.runs.setdefault(words.get("id") or words["name"], [])
        return self

    def define_metric(self, name: str, step_metric: str = "", hidden: bool = False) -> None:
        self.drawn_against[name] = step_metric

    def log(self, row: dict[str, float], step: int | None = None) -> None:
        self._fail("log")
        self._rows.append((row, step))

    def finish(self, exit_code: int | None = None) -> None:
        self._fail("finish")
        self.ends.append(exit_code)

    def _fail(self, where: str) -> None:
        if self.broken == where:
            raise ConnectionError(f"no network in {where}\nand more lines")


@pytest.fixture(params=TRACKERS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Module:
    made = Module(request.param)
    monkeypatch.setitem(sys.modules, request.param, made)
    return made


def track(module: Module, workdir: pathlib.Path) -> Trackers:
    return Trackers([module.__name__], "project", workdir, {"seed": 3})


def rows(module: Module) -> list[tuple[str, int, float]]:
    """(stage, step, loss) of the one run there."""
    (found,) = module.runs.values()
    told = []
    for row, step in found:
        (name,) = [name for name in row if name.endswith("loss")]
        stage = name.partition("/")[0]
        told.append((stage, int(row[f"{stage}/step"]) if step is None else step, row[name]))
    return told


def test_every_row_is_sent_under_its_stage(module: Module, tmp_path: pathlib.Path) -> None:
    with track(module, tmp_path) as trackers, MetricWriter(tmp_path, tensorboard=False, mirror=trackers) as writer:
        writer.write("sft", 1, {"loss": 0.5})
        writer.write("sft", 1, {"validation.loss": 0.75})
        writer.write("reward", 1, {"loss": 0.25})
    assert rows(module) == [("sft", 1, 0.5), ("sft", 1, 0.75), ("reward", 1, 0.25)]
    (found,) = module.runs.values()
    assert "sft/validation.loss" in found[1][0]
    (words,) = module.opened
    assert (words["project"], words["config"]) == ("project", {"seed": 3})
    assert words["name"].startswith(tmp_path.name)
    if module.__name__ == "wandb":  # whose own steps are not ours
        assert module.drawn_against["reward/*"] == "reward/step"
        assert module.ends == [0]


def test_a_run_goes_on_in_the_same_run_and_says_nothing_twice(module: Module, tmp_path: pathlib.Path) -> None:
    def part(start: int, steps: range) -> None:
        with track(module, tmp_path) as trackers, MetricWriter(tmp_path, tensorboard=False, mirror=trackers) as writer:
            writer.rewind("sft", start)
            for step in steps:
                writer.write("sft", step, {"loss": float(step)})
                if step % 2 == 0:
                    writer.write("sft", step, {"validation.loss": float(step)})

    part(0, range(1, 5))
    part(2, range(3, 7))  # its checkpoint was of step 2
    losses = [("sft", step, float(step)) for step in range(1, 7) for _ in range(1 + (step % 2 == 0))]
    assert rows(module) == losses
    assert len(read_metrics(tmp_path)) == len(losses)
    assert len(module.opened) == 2
    assert len({(words["name"], words.get("id")) for words in module.opened}) == 1


def test_another_folder_is_another_run(module: Module, tmp_path: pathlib.Path) -> None:
    for folder in ("a/run", "b/run"):
        (tmp_path / folder).mkdir(parents=True)
        track(module, tmp_path / folder).close()
    assert len(module.runs) == 2


def test_a_tracker_that_comes_later_gets_the_rows_so_far(module: Module, tmp_path: pathlib.Path) -> None:
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for step in (1, 2, 3):
            writer.write("sft", step, {"loss": float(step)})
    with track(module, tmp_path) as trackers, MetricWriter(tmp_path, tensorboard=False, mirror=trackers) as writer:
        writer.rewind("sft", 2)
        writer.write("sft", 3, {"loss": 3.0})
        writer.write("sft", 4, {"loss": 4.0})
    track(module, tmp_path).close()  # nothing again
    assert rows(module) == [("sft", step, float(step)) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_of_once(
    module: Module, tmp_path: pathlib.Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module.broken = where
    with track(module, tmp_path) as trackers, MetricWriter(tmp_path, tensorboard=False, mirror=trackers) as writer:
        for step in (1, 2, 3):
            writer.write("sft", step, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 3
    told = capsys.readouterr().out
    assert told == f"{module.__name__} failed, and the run goes on without it: ConnectionError: no network in {where}\n"


def test_one_that_failed_at_first_gets_everything_later(module: Module, tmp_path: pathlib.Path) -> None:
    module.broken = "init"
    with track(module, tmp_path) as trackers, MetricWriter(tmp_path, tensorboard=False, mirror=trackers) as writer:
        writer.write("sft", 1, {"loss": 1.0})
    module.broken = ""
    track(module, tmp_path).close()
    assert rows(module) == [("sft", 1, 1.0)]


def test_a_run_that_ends_badly_ends_badly_there(module: Module, tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit), track(module, tmp_path):
        raise SystemExit(75)
    assert module.ends == [1 if module.__name__ == "wandb" else None]


def test_without_trackers_nothing_is_left(tmp_path: pathlib.Path) -> None:
    with Trackers((), "project", tmp_path, {}) as trackers:
        trackers.log("sft", 1, {"loss": 1.0})
    assert not (tmp_path / STATE).exists()


def test_the_state_is_small(module: Module, tmp_path: pathlib.Path) -> None:
    track(module, tmp_path).close()
    state = json.loads((tmp_path / STATE).read_text())
    assert state["trackers"] == [module.__name__]
    assert len(state["id"]) == 8


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(TRACKERS) == names.TRACKERS
    config = default_config()
    for wrong in (("wandb", "wandb"), ("mlflow",)):
        config.log.trackers = wrong
        with pytest.raises(UserError, match=r"config\.log\.trackers: .* none, one or more of wandb, trackio"):
            validate(config)
    config.log.trackers = names.TRACKERS
    validate(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"trackio is not installed; pip install 'rlhf_jax\[trackio\]'"):
        check_trackers(["trackio"])
    check_trackers(())
