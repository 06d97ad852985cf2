"""Sweeps of real, tiny runs: each trial is the run that its configuration says, killed or not, pruned or not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

import rlhf_jax.run
from rlhf_jax.parallel import MeshExecutor
from rlhf_jax.sweeps import worker
from rlhf_jax.sweeps.claims import claims
from rlhf_jax.sweeps.folder import read_trials
from tests.end_to_end import tiny

COMMAND = (
    "sweep",
    f"--config={tiny.ROOT / 'configs' / 'reward_listwise.py'}",
    "--objective=reward.pair_accuracy:max",
    "--sweep.reward.utility.gamma=0.5,1.0",
    "--seeds=0,1",
    *tiny.MODEL,
    "--config.reward.steps=6",
    "--config.reward.eval_every=3",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.checkpoint.every=2",
)


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
    """Bit for bit, but for what the clock decides."""
    tiny.assert_same_state(one, other, ("reward",))
    assert tiny.rows_of(one) == tiny.rows_of(other)
    for name in ("summary.json", "rewards/reward.jsonl", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.usefixtures("one_device")
def test_a_trial_is_the_run_of_its_configuration_though_programs_are_shared(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[str] = []
    compile_ = MeshExecutor.compile

    def counted(self: MeshExecutor, *args: Any, **named: Any) -> Any:
        compiled.append(args[0].__qualname__)
        return compile_(self, *args, **named)

    monkeypatch.setattr(MeshExecutor, "compile", counted)
    tiny.launch(*COMMAND, f"--workdir={tmp_path / 'sweep'}")
    assert len(compiled) == 4  # the update and the evaluation of each exponent; none for the second seed
    trials = read_trials(tmp_path / "sweep")
    assert [trial.state for trial in trials] == ["done"] * 4
    assert len({trial.summary["reward.loss"] for trial in trials}) == 4
    assert not (trials[3].folder / "report").exists()
    page = (tmp_path / "sweep" / "report" / "index.html").read_text()
    assert "reward.pair_accuracy" in page

    config = f"--config={trials[3].folder / 'config.json'}"
    tiny.launch(config, f"--workdir={tmp_path / 'alone'}", report=False)
    assert len(compiled) == 6
    assert_same_run(trials[3].folder, tmp_path / "alone")
    capsys.readouterr()
    tiny.launch(config, f"--workdir={trials[3].folder}", report=False)  # as docs/sweeps.md says, for its page
    assert f"report: {trials[3].folder}" in capsys.readouterr().out
    assert len(compiled) == 6


@pytest.mark.usefixtures("one_device")
def test_a_trial_that_is_pruned_ends_cleanly_and_is_not_gone_on_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[list[Any], dict[int, float]]] = []

    def judged(pruner: str, objective: object, others: list[Any], own: dict[int, float]) -> bool:
        asked.append((others, own))
        return len(asked) == 2

    def join() -> None:
        raise AssertionError("a worker is a run's only process, whatever its launcher says")

    monkeypatch.setattr(rlhf_jax.run, "join", join)
    monkeypatch.setattr(worker, "worth_pruning", judged)
    words = [word for word in COMMAND if not word.startswith(("--sweep.", "--seeds="))]
    settings = ("--sweep.reward.utility.gamma=1.0", "--seeds=0,1,2", "--pruner=median")
    command = (*words, *settings, f"--workdir={tmp_path}")
    tiny.launch(*command)
    trials = read_trials(tmp_path)
    # The second seed is pruned after the step that follows its evaluation; there is no third.
    assert [trial.state for trial in trials] == ["done", "pruned"]
    assert tiny.status_of(trials[1].folder) | {"time": 0} == {
        "state": "pruned",
        "stage": "reward",
        "step": 4,
        "exit_code": 0,
        "reason": "",
        "time": 0,
    }
    assert tiny.last_step(trials[1].folder, "reward") == 4
    assert not (trials[1].folder / "summary.json").exists()
    # It was judged by its evaluation after step 3, beside the first, which has ended.
    ((curve, value),), own = asked[1]
    assert list(curve) == [3, 6]
    assert value == curve[6] == trials[0].summary["reward.pair_accuracy"]
    assert own == trials[1].curve("reward.pair_accuracy")
    assert list(own) == [3]
    capsys.readouterr()
    tiny.launch(*command)
    assert capsys.readouterr().out.startswith("┏")  # nothing is said but the table, and where the page is
    assert json.loads((tmp_path / "results.json").read_text())["states"] == {"done": 1, "pruned": 1}


@pytest.mark.usefixtures("one_device")
def test_a_pruner_needs_a_figure_that_is_measured_on_the_way(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("pair_accuracy", "kendall_tau") for word in COMMAND]
    line = tiny.refused(capsys, *words, f"--workdir={tmp_path}", "--pruner=median")
    assert "--pruner: reward.kendall_tau is not measured during the stage, but collapse_index" in line
    (trial,) = read_trials(tmp_path)
    assert trial.state == "done"  # it was not in vain


# A worker on a slice of the world, slow enough to be met on its way.
SLOW = """
import sys, time
from rlhf_jax.metrics import MetricWriter
write = MetricWriter.write
def slow(self, *args):
    time.sleep(0.25)
    write(self, *args)
MetricWriter.write = slow
from tests.end_to_end import tiny
tiny.launch(*sys.argv[1:])
"""


@pytest.mark.slow
def test_two_workers_of_which_some_are_killed_end_as_one_that_was_not(tmp_path: pathlib.Path) -> None:
    """SIGKILL to three workers and SIGTERM to a fourth; whoever is left or comes goes on from the checkpoints."""
    environment = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "XLA_FLAGS": ""}
    folder = tmp_path / "killed"

    def start() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", SLOW, *COMMAND, f"--workdir={folder}"]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)

    workers = [start(), start()]
    struck: dict[int, str] = {}  # trial -> signal
    codes: list[int] = []
    deadline = time.monotonic() + 400
    while any(one.poll() is None for one in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
        for trial in [] if len(struck) == 3 else sorted(folder.glob("trials/[0-9]*")):
            steps = [int(path.name) for path in (trial / "checkpoints" / "reward").glob("[0-9]") if path.is_dir()]
            owner = claims(trial)[-1].content
            if not steps or int(trial.name) in struck or owner.get("ended") or (trial / "summary.json").exists():
                continue
            number = signal.SIGTERM if len(struck) == 1 else signal.SIGKILL
            os.kill(owner["pid"], number)
            struck[int(trial.name)] = number.name
            (victim,) = [one for one in workers if one.pid == owner["pid"]]
            codes.append(victim.wait(60))
            workers[workers.index(victim)] = start()
    assert [one.wait(10) for one in workers] == [0, 0]
    assert codes == [-signal.SIGKILL, 75, -signal.SIGKILL]
    trials = read_trials(folder)
    assert [trial.state for trial in trials] == ["done"] * 4
    assert sum(len(claims(trial.folder)) for trial in trials) == 7
    for number in struck:
        assert "going on from step" in (trials[number].folder / "output.log").read_text()

    whole = [sys.executable, "-c", SLOW.replace("0.25", "0"), *COMMAND, f"--workdir={tmp_path / 'whole'}"]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for trial in trials:
        assert_same_run(trial.folder, tmp_path / "whole" / "trials" / trial.folder.name)
    results = [json.loads((path / "results.json").read_text()) for path in (folder, tmp_path / "whole")]
    assert results[0] == results[1]
    assert [len(point["trials"]) for point in results[0]["points"]] == [2, 2]
