"""The loop: restore, step, log, evaluate, save. It knows no algorithm; who drains it decides what events are for."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from rlhf_jax.checkpoints import Checkpoints
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


@dataclasses.dataclass(frozen=True)
class Started:
    """The stage begins at ``step``: 0, or the step of the checkpoint that it goes on from."""

    step: int


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
class Stopped:
    """The stage was asked to stop after ``step`` steps; its newest checkpoint has them all. The last event."""

    step: int


Event = Started | Stepped | Evaluated | Stopped


def _never() -> bool:
    return False


def run(
    task: Task, checkpoints: Checkpoints, *, checkpoint_every: int, stop: Callable[[], bool] = _never
) -> Iterator[Event]:
    """Run the task from its newest checkpoint to its end, yielding an event for all that a reader may want to know.

    Metrics of a step are fetched while the next one is on its way. Before a step is saved, everything up to it has been
    yielded, so that a consumer that writes events down at once never has less on disk than the checkpoint knows.
    ``stop`` is asked once before the first step and once after each; when it says so, the step is saved, and the stage
    left without its closing evaluation.
    """
    state = task.state
    start = checkpoints.latest() or 0
    if start:
        state, meta = checkpoints.restore(start, state)
        task.batches.set_state(meta["batches"])
    yield Started(start)
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

    for step in range(start + 1, task.total_steps + 1):
        state, out = task.step(state, next(task.batches))
        yield from flush()
        last = step == task.total_steps
        if step % task.log_every == 0 or last:
            pending = (step, out)
        else:
            yield Stepped(step, {})
        leave = stop()
        evaluate = step % task.eval_every == 0 and not last
        save = step % checkpoint_every == 0 or last or leave
        if evaluate or save:
            yield from flush()
        if evaluate:
            yield Evaluated(step, task.evaluate(state, False), final=False)
            since, counted = time.perf_counter(), step
        if save:
            checkpoints.save(state, {"batches": task.batches.get_state()})
        if leave:
            checkpoints.wait()
            yield Stopped(step)
            return
    checkpoints.wait()
    yield Evaluated(task.total_steps, task.evaluate(state, True), final=True)
