"""A stage asks whether the run directory is still its own before each row and before each checkpoint."""

import collections
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rlhf_jax import run
from rlhf_jax.build import Context
from rlhf_jax.config import default_config
from rlhf_jax.loop import Event, Started, Stepped, Task
from rlhf_jax.owner import Owner
from rlhf_jax.parallel import Stop, Watch
from rlhf_jax.trackers import Trackers


def test_it_asks_before_each_row_and_each_checkpoint(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Noted(Owner):
        def check(self) -> None:
            done.append("asks")

    def loop(
        task: Task, checkpoints: Any, *, checkpoint_every: int, stop: Callable[[], bool], **_: Any
    ) -> Iterator[Event]:
        yield Started(0)
        yield Stepped(1, {})
        stop()
        done.append("saves")
        yield Stepped(2, {})

    def record(_: Context, __: Task, events: Iterator[Event], ___: Trackers) -> Event:
        last = collections.deque(((done.append("writes"), event)[1] for event in events), maxlen=1)
        return last.pop()

    none: Any = None
    task = Task("sft", 2, none, none, none, none, lambda *_: none, 1, 1)
    monkeypatch.setattr(run, "make_task", lambda *_: task)
    monkeypatch.setattr(run, "run", loop)
    monkeypatch.setattr(run, "record", record)
    monkeypatch.setattr(run, "stage_identity", lambda *_: {})
    context = Context(default_config(), tmp_path, none, none, none)
    with Noted(tmp_path, lambda: None) as owner:
        run.run_stage(context, "sft", owner, Stop(), Watch(60), Trackers((), "", tmp_path, {}))
    assert done == ["asks", "writes", "asks", "writes", "asks", "saves", "asks", "writes"]
