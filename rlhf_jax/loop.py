"""The loop: restore, step, log, evaluate, save. It knows no algorithm; who drains it decides what events are for."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.diagnostics.monitor import Alarm, Monitor
from rlhf_jax.types import TrainState


@runtime_checkable
class BatchIterator(Protocol):
    """An endless stream of batches whose place can be saved."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: metrics, rows to be stored (completions; rewards of scored responses), warnings."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rewards: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """One stage, ready to run.

    ``step`` returns without waiting for the device; ``finish`` turns what it returned into floats and may wait.
    ``evaluate(state, final)`` is called every ``eval_every`` steps, and once more with final=True at the end.
    ``optimum`` is the record of what each prompt type's utility asks for, where the stage trains on rankings.
    ``monitor`` reads the metrics of steps, and of evaluations as ``validation.NAME``; with ``halts`` its alarms end
    the stage early.
    """

    name: str
    total_steps: int
    state: TrainState
    batches: BatchIterator
    step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    finish: Callable[[Any], dict[str, float]]
    evaluate: Callable[[TrainState, bool], Evaluation]
    log_every: int
    eval_every: int
    notes: tuple[str, ...] = ()
    optimum: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    monitor: Monitor | None = None
    halts: bool = False


@dataclasses.dataclass(frozen=True)
class Started:
    """The stage begins at ``step``: 0, or the step of the checkpoint that it goes on from.

    ``closing``: all steps are done, and the closing evaluation is left. ``notes`` say of damaged checkpoints that were
    passed over, and of differences that were accepted.
    """

    step: int
    closing: bool = False
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Stepped:
    """``step`` steps are done; ``metrics`` is empty between two log intervals."""

    step: int
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation after ``step`` steps; the final one closes the stage."""

    step: int
    evaluation: Evaluation
    final: bool


@dataclasses.dataclass(frozen=True)
class Alarmed:
    """The figures of ``step`` set off the alarm; if the monitor halts the stage, its closing evaluation follows."""

    step: int
    alarm: Alarm


@dataclasses.dataclass(frozen=True)
class Stopped:
    """The stage was asked to stop after ``step`` steps; its newest checkpoint has them all. The last event."""

    step: int


Event = Started | Stepped | Evaluated | Alarmed | Stopped


def _never() -> bool:
    return False


def run(
    task: Task, checkpoints: Checkpoints, *, checkpoint_every: int, stop: Callable[[], bool] = _never
) -> Iterator[Event]:
    """Run the task from its newest checkpoint to its end, yielding an event for all that a reader may want to know.

    Metrics of a step are fetched while the next one is on its way, unless a monitor waits for them. Before a step is
    saved, everything up to it has been yielded, so that a consumer that writes events down at once never has less on
    disk than the checkpoint knows.
    ``stop`` is asked once before the first step and once after each; when it says so, the step is saved, and the stage
    left without its closing evaluation. A monitor that halts the stage makes the step its last: it is saved, and the
    closing evaluation made.
    """
    state, monitor = task.state, task.monitor
    start, notes = 0, tuple[str, ...]()
    if (restored := checkpoints.restore_newest(state)) is not None:
        start, state, notes = restored.step, restored.state, restored.notes
        task.batches.set_state(restored.meta["batches"])
        if monitor is not None:
            monitor.set_state(restored.meta["monitor"])
        del restored  # or the state would stay in memory for as long as the loop runs
    yield Started(start, closing=start >= task.total_steps or _halted(task), notes=notes)
    if stop():
        yield Stopped(start)
        return

    pending: tuple[int, Any] | None = None
    since, counted = time.perf_counter(), start

    def flush() -> Iterator[Event]:
        nonlocal pending, since, counted
        if pending is None:
            return
        (step, out), pending = pending, None
        metrics = task.finish(out)
        now = time.perf_counter()
        metrics["steps_per_second"] = (step - counted) / max(now - since, 1e-9)
        since, counted = now, step
        yield Stepped(step, metrics)
        yield from alarms(step, metrics)

    def alarms(step: int, metrics: dict[str, float]) -> Iterator[Event]:
        for alarm in monitor.observe(step, metrics) if monitor is not None else ():
            yield Alarmed(step, alarm)

    step = start
    while step < task.total_steps and not _halted(task):
        step += 1
        state, out = task.step(state, next(task.batches))
        yield from flush()
        last = step == task.total_steps
        if step % task.log_every == 0 or last:
            pending = (step, out)
        else:
            yield Stepped(step, {})
        leave = stop()
        if monitor is not None:
            yield from flush()
        evaluate = step % task.eval_every == 0 and not last and not _halted(task)
        save = step % checkpoint_every == 0 or last or leave
        if evaluate or save:
            yield from flush()
        if evaluate:
            found = task.evaluate(state, False)
            yield Evaluated(step, found, final=False)
            yield from alarms(step, held_out(found))
            since, counted = time.perf_counter(), step
        if save or _halted(task):
            meta = {"batches": task.batches.get_state()}
            checkpoints.save(state, meta if monitor is None else meta | {"monitor": monitor.get_state()})
        if leave:
            checkpoints.wait()
            yield Stopped(step)
            return
    checkpoints.wait()
    found = task.evaluate(state, True)
    yield from alarms(step, held_out(found))
    yield Evaluated(step, found, final=True)


def held_out(evaluation: Evaluation) -> dict[str, float]:
    """Its metrics as they are written and watched: under names of their own, but for those of training lists."""
    return {name if name.startswith("train.") else f"validation.{name}": v for name, v in evaluation.metrics.items()}


def _halted(task: Task) -> bool:
    """Whether an alarm has ended the stage."""
    return task.halts and task.monitor is not None and bool(task.monitor.fired)
