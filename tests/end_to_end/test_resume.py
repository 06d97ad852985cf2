"""A run that is killed goes on from its last checkpoint by the same command, to the same bits."""

import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import rlhf_jax.run
from rlhf_jax.build import saved_bytes
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import from_json
from rlhf_jax.data.tokenizers import load_tokenizer
from rlhf_jax.metrics import MetricWriter
from tests.end_to_end import tiny
from tests.end_to_end.conftest import Run

STAGES = ("sft", "reward", "reward_common", "ppo")


class Killed(BaseException):
    """Not an Exception: nothing in the program may catch it."""


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(stage, step) of every stage begun since, filled as runs go on."""
    found: list[tuple[str, int]] = []
    rewind = MetricWriter.rewind

    def noted(self: MetricWriter, stage: str, step: int, **settings: Any) -> None:
        found.append((stage, step))
        rewind(self, stage, step, **settings)

    monkeypatch.setattr(MetricWriter, "rewind", noted)
    return found


def _die_at_row(stage: str, step: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Right after the row of a step has been written."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        write = MetricWriter.write

        def dying(self: MetricWriter, at_stage: str, at_step: int, metrics: Any) -> None:
            write(self, at_stage, at_step, metrics)
            if (at_stage, at_step) == (stage, step):
                raise Killed

        monkeypatch.setattr(MetricWriter, "write", dying)

    return patch


def _die_at_save(stage: str, step: int) -> Callable[[pytest.MonkeyPatch], None]:
    """When all of a step is on disk but its checkpoint."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        save = Checkpoints.save

        def dying(self: Checkpoints, state: Any, meta: Any) -> None:
            if (self.directory.name, int(state.step)) == (stage, step):
                raise Killed
            save(self, state, meta)

        monkeypatch.setattr(Checkpoints, "save", dying)

    return patch


def _die_at_close(stage: str, *, told: bool) -> Callable[[pytest.MonkeyPatch], None]:
    """After the closing evaluation's row: before the summary knows of the stage, or (``told``) just after."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        update = rlhf_jax.run.update_summary

        def dying(workdir: pathlib.Path, values: dict[str, float]) -> None:
            mine = f"{stage}.steps" in values
            if told or not mine:
                update(workdir, values)
            if mine:
                raise Killed

        monkeypatch.setattr(rlhf_jax.run, "update_summary", dying)

    return patch


# Where the run dies, and the stages (with the step that they start from) that it has begun until then. Checkpoints are
# at 2, 4 and 6, evaluations at 3 and 6 (PPO: 3 and 4).
DEATHS = [
    (_die_at_row("sft", 5), [("sft", 0)]),
    (_die_at_close("sft", told=False), [("sft", 4)]),
    (_die_at_close("sft", told=True), [("sft", 6)]),
    (_die_at_save("reward", 4), [("reward", 0)]),
    (_die_at_close("reward", told=True), [("reward", 2)]),
    (_die_at_row("reward_common", 3), [("reward_common", 0)]),
    (_die_at_row("ppo", 3), [("reward_common", 2), ("ppo", 0)]),
    (_die_at_close("ppo", told=False), [("ppo", 2)]),
]


@pytest.mark.slow
@pytest.mark.slow
def test_a_run_killed_eight_times_ends_as_one_that_was_not(
    quickstart: Run, tmp_path: pathlib.Path, starts: list[tuple[str, int]]
) -> None:
    workdir = tmp_path / "run"
    command = (*quickstart.command, f"--workdir={workdir}")
    for number, (patch, begun) in enumerate(DEATHS):
        starts.clear()
        with pytest.MonkeyPatch.context() as monkeypatch:
            patch(monkeypatch)
            with pytest.raises(Killed):
                tiny.launch(*command, report=False)
        assert starts == begun, f"death {number}"
        assert tiny.status_of(workdir)["state"] == "running"
    starts.clear()
    tiny.launch(*command, report=False)
    assert starts == [("ppo", 4)]

    tiny.assert_same_state(workdir, quickstart.workdir, STAGES)
    assert tiny.rows_of(workdir) == tiny.rows_of(quickstart.workdir)
    assert (workdir / "summary.json").read_bytes() == (quickstart.workdir / "summary.json").read_bytes()
    for folder in ("samples", "rewards"):
        assert _files(workdir / folder) == _files(quickstart.workdir / folder) != {}


def test_the_bytes_of_checkpoints_are_known_before_the_first_step(quickstart: Run) -> None:
    """Held to the arrays that Orbax reads from them. Keys count as the words that they are written as."""
    config = from_json((quickstart.workdir / "config.json").read_text())
    vocabulary = load_tokenizer(quickstart.workdir / "tokenizer").vocab_size
    told = saved_bytes(config, vocabulary)
    assert tuple(told) == STAGES
    for stage in STAGES:
        arrays = sum(leaf.nbytes for leaf in tiny.state_of(quickstart.workdir, stage).values())
        assert 0 <= arrays - told[stage] < 200, stage  # step, key, and PPO's scalars


def _files(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_step_with_a_checkpoint(
    quickstart: Run,
    tmp_path: pathlib.Path,
    starts: list[tuple[str, int]],
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """As after control-C, or from a scheduler: exit code 75. Step 3 is no checkpoint's, but is evaluated."""
    command = (*quickstart.command, f"--workdir={tmp_path}", "--config.stages=sft")
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The row of step 2 is written after step 3 has been sent on its way.
        monkeypatch.setattr(MetricWriter, "write", _signalled_at(("sft", 2), number))
        with pytest.raises(SystemExit) as stopped:
            tiny.launch(*command, report=False)
    assert stopped.value.code == 75
    status = tiny.status_of(tmp_path)
    assert [status[name] for name in ("state", "stage", "step", "reason", "exit_code")] == [
        "interrupted",
        "sft",
        3,
        number.name,
        75,
    ]
    assert tiny.last_step(tmp_path, "sft") == 3
    said = capsys.readouterr()
    assert f"sft: stopped after step 3 by {number.name}; the same command goes on" in said.out
    assert f"{number.name}: stopping after the step under way" in said.err
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    tiny.launch(*command, report=False)
    assert starts == [("sft", 0), ("sft", 3)]
    assert "sft: going on from step 3" in capsys.readouterr().out
    tiny.assert_same_state(tmp_path, quickstart.workdir, ("sft",))
    rows = [row for row in tiny.rows_of(quickstart.workdir) if row["stage"] == "sft"]
    assert tiny.rows_of(tmp_path) == rows


def _signalled_at(place: tuple[str, int], number: signal.Signals) -> Callable[..., None]:
    write = MetricWriter.write

    def signalled(self: MetricWriter, stage: str, step: int, metrics: Any) -> None:
        write(self, stage, step, metrics)
        if (stage, step) == place:
            os.kill(os.getpid(), number)
            time.sleep(0.3)  # until the thread that reads signals has read it

    return signalled
