"""PPO under a monitor, by the command line: it warns, it stops the run, and a run cut off ends as the whole one."""

import json
import pathlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_jax.config import default_config
from rlhf_jax.diagnostics.monitor import Alarm
from rlhf_jax.loop import Alarmed, Event, Rewound, Started, Stopped
from rlhf_jax.metrics import read_metrics, read_summary, update_summary
from rlhf_jax.run import record, stopped_by_monitor
from rlhf_jax.trackers import Trackers
from tests.end_to_end import tiny

pytestmark = pytest.mark.usefixtures("one_device")

QUICK = (
    *tiny.SIZE,
    "--config.sft.steps=2",
    "--config.reward.steps=3",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
)
PPO = (
    *QUICK,
    f"--config={tiny.ROOT / 'configs' / 'ppo.py'}",
    "--config.ppo.iterations=4",
    "--config.ppo.eval_every=1",
    "--config.ppo.optimizer.learning_rate=0.01",
    "--config.checkpoint.every_iterations=1",
)
GOLD = "def brief(prompt, response):\n    return -float(len(response.split()))\n"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """SFT and a reward model."""
    workdir = tmp_path_factory.mktemp("monitor") / "parent"
    config = f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}"
    tiny.launch(*QUICK, config, f"--workdir={workdir}", "--config.stages=sft,reward", report=False)
    return workdir


def follow(parent: pathlib.Path, workdir: pathlib.Path, *words: str) -> dict[str, float]:
    """PPO from the parent; the summary."""
    parents = f"--config.parents.sft={parent}", f"--config.parents.reward={parent}"
    tiny.launch(*PPO, *parents, f"--workdir={workdir}", *words, report=False)
    return read_summary(workdir)


def test_an_alarm_warns_or_stops_at_the_iteration_that_sets_it_off(
    parent: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gap is read off what was written down: rewards and gold of held-out answers, against those of the start."""
    (tmp_path / "mine.py").write_text(GOLD)
    own = f"--config.data.gold={tmp_path / 'mine.py'}:brief"
    warned = follow(parent, tmp_path / "warn", own, "--config.ppo.monitor.kl=1e-6", "--config.ppo.monitor.gap=1e-6")
    rows = [row for row in read_metrics(tmp_path / "warn") if row["stage"] == "ppo"]
    kl = {row["step"]: row["metrics"]["kl"] for row in rows if "kl" in row["metrics"]}
    gap = {row["step"]: row["metrics"]["validation.gap"] for row in rows if "validation.gap" in row["metrics"]}
    assert warned["ppo.steps"] == 4
    assert warned["ppo.alarm.kl"] == min(step for step, value in kl.items() if value > 1e-6)
    firsts = [step for step, value in gap.items() if value > 1e-6]
    assert warned.get("ppo.alarm.gap") == (min(firsts) if firsts else None)
    assert "ppo warning: monitor after step" in capsys.readouterr().out
    assert json.loads((tmp_path / "warn" / "STATUS.json").read_text())["reason"] == ""
    # The gold is the user's own.
    assert all(row["metrics"]["gold.open"] < 0 for row in rows if "gold.open" in row["metrics"])

    last = max(range(1, 4), key=lambda step: kl[step])  # the farthest that is not the last anyway
    bound = max([kl[last] / 2, *(value for step, value in kl.items() if step < last)])  # beyond it nothing was before
    words = (own, f"--config.ppo.monitor.kl={bound!r}", "--config.ppo.monitor.action=stop")
    stopped = follow(parent, tmp_path / "stop", *words)
    assert stopped["ppo.steps"] == stopped["ppo.alarm.kl"] == last
    status = json.loads((tmp_path / "stop" / "STATUS.json").read_text())
    assert status["state"] == "done"
    assert status["reason"] == f"ppo stopped by monitor after iteration {last}: kl"
    assert tiny.last_step(tmp_path / "stop", "ppo") == last
    # What is left is closed; nothing is run again.
    before = tiny.rows_of(tmp_path / "stop")
    follow(parent, tmp_path / "stop", *words)
    assert tiny.rows_of(tmp_path / "stop") == before


def test_alarms_of_steps_that_are_made_again_are_forgotten(tmp_path: pathlib.Path) -> None:
    """Of a start from an earlier checkpoint, and of a rewind; what is told after these stays."""
    update_summary(tmp_path, {"ppo.alarm.gap": 4, "ppo.alarm.kl": 7, "sft.alarm.gap": 9})
    seen: list[dict[str, float]] = []

    def events() -> Iterator[Event]:
        yield Started(6)
        seen.append(read_summary(tmp_path))
        yield Alarmed(8, Alarm("kl", "above", 0.1))
        seen.append(read_summary(tmp_path))
        yield Rewound(step=2, spike=8, loss=9.0, bound=1.0, first=7, last=8, places={})
        seen.append(read_summary(tmp_path))
        yield Stopped(2)

    config = default_config()
    config.log.tensorboard = False
    task: Any = SimpleNamespace(name="ppo", total_steps=9, optimum={}, halts=False)
    context: Any = SimpleNamespace(config=config, workdir=tmp_path)
    record(context, task, events(), Trackers((), "", tmp_path, {}))
    first = {"ppo.alarm.gap": 4, "sft.alarm.gap": 9}
    assert seen == [first, first | {"ppo.alarm.kl": 8}, {"sft.alarm.gap": 9}]


@pytest.mark.parametrize(("steps", "reason"), [(3.0, "ppo stopped by monitor after iteration 3: kl"), (4.0, "")])
def test_an_alarm_of_the_last_iteration_has_stopped_nothing(steps: float, reason: str) -> None:
    config = default_config()
    config.ppo.iterations, config.ppo.monitor.action = 4, "stop"
    assert stopped_by_monitor(config, {"ppo.alarm.kl": steps, "ppo.steps": steps}) == reason
