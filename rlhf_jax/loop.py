"""The loop: restore, step, log, evaluate, save. It knows no algorithm; who drains it decides what events are for."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.diagnostics.guard import Guard, GuardSpec
from rlhf_jax.diagnostics.monitor import Alarm, Monitor
from rlhf_jax.errors import BadNumbers
from rlhf_jax.finite import not_finite
from rlhf_jax.learners.step import causes_of
from rlhf_jax.types import TrainState, places_of


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

    ``step`` returns while the device is at work; ``finish`` turns what it returned into floats and may wait, and
    ``flags`` takes out of it (what was not finite, as bits of ``learners.step.CAUSES``; the loss), still on the device.
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
    flags: Callable[[Any], tuple[Any, Any]] = lambda _: (0, math.nan)


@dataclasses.dataclass(frozen=True)
class Started:
    """The stage begins at ``step``: 0, or the step of the checkpoint that it goes on from.

    ``closing``: all steps are done, and the closing evaluation is left. ``drawn`` batches were taken before. ``notes``
    say of damaged checkpoints that were passed over, and of differences that were accepted.
    """

    step: int
    closing: bool = False
    drawn: int = 0
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
class Skipped:
    """``step`` has left parameters as they were, or PPO some of its updates: ``causes`` were not finite.

    ``batch`` is the number of its batch in the stream, from 1, ``places`` those of its examples, by their part of the
    batch; it is the last of ``in_a_row`` such steps.
    """

    step: int
    batch: int
    causes: tuple[str, ...]
    places: dict[str, list[int]]
    in_a_row: int


@dataclasses.dataclass(frozen=True)
class Rewound:
    """The run is back at ``step``: at step ``spike`` the loss lay above ``bound``. The batches of numbers ``first`` to
    ``last`` are left behind; ``places`` are those of the last one's examples.
    """

    step: int
    spike: int
    loss: float
    bound: float
    first: int
    last: int
    places: dict[str, list[int]]


@dataclasses.dataclass(frozen=True)
class Stopped:
    """The stage was asked to stop after ``step`` steps; its newest checkpoint has them all. The last event."""

    step: int


Event = Started | Stepped | Evaluated | Alarmed | Skipped | Rewound | Stopped


def _never() -> bool:
    return False


def run(
    task: Task,
    checkpoints: Checkpoints,
    *,
    checkpoint_every: int,
    stop: Callable[[], bool] = _never,
    guard: GuardSpec = GuardSpec(),  # noqa: B008 (frozen)
) -> Iterator[Event]:
    """Run the task from its newest checkpoint to its end, yielding an event for all that a reader may want to know.

    What a step says of itself is fetched while the next one is on its way, unless a monitor waits for it, or spikes are
    looked for. Before a step is saved, everything up to it has been yielded, so that a consumer that writes events down
    at once never has less on disk than the checkpoint knows.
    ``stop`` is asked once before the first step and once after each; when it says so, the step is saved, and the stage
    left without its closing evaluation. A monitor that halts the stage makes the step its last: it is saved, and the
    closing evaluation made.

    Where a loss is a spike by the ``guard``, parameters, optimizer and step are those of the last checkpoint of the
    schedule again, and the stream of batches goes on from where it is. Before the first such checkpoint nothing is
    looked for.

    Raises:
      BadNumbers: too many steps on end were skipped, or spikes met, or the state to be saved is not finite.
    """
    state, monitor, watch = task.state, task.monitor, Guard(guard)

    def meta_of_step() -> dict[str, Any]:
        meta = {"batches": task.batches.get_state(), "guard": watch.get_state()}
        return meta if monitor is None else meta | {"monitor": monitor.get_state()}

    start, notes = 0, tuple[str, ...]()
    if checkpoints.latest() is not None:
        state = _given_up(state)
    if (restored := checkpoints.restore_newest(state)) is not None:
        start, state, notes = restored.step, restored.state, restored.notes
        task.batches.set_state(restored.meta["batches"])
        watch.set_state(restored.meta["guard"])
        if monitor is not None:
            monitor.set_state(restored.meta["monitor"])
        del restored  # or the state would stay in memory for as long as the loop runs
    yield Started(start, closing=start >= task.total_steps or _halted(task), drawn=watch.drawn, notes=notes)
    if stop():
        yield Stopped(start)
        return

    pending: tuple[int, int, Any, Any] | None = None
    spike: Rewound | None = None
    since, counted, drawing = time.perf_counter(), start, 0.0

    def flush() -> Iterator[Event]:
        """What the last step has to say."""
        nonlocal pending, spike, since, counted, drawing
        if pending is None:
            return
        (step, number, batch, out), pending = pending, None
        bits, loss = jax.device_get(task.flags(out))
        causes, too_many = causes_of(int(bits)), False
        if causes:
            too_many = watch.skipped()
            yield Skipped(step, number, causes, places_of(batch), watch.in_a_row)
        elif step > checkpoint_every and loss > watch.bound():
            back = (step - 1) // checkpoint_every * checkpoint_every
            spike = Rewound(back, step, float(loss), watch.bound(), watch.kept + 1, number, places_of(batch))
        else:
            watch.made(float(loss))
        if _logged(task, step):
            metrics = task.finish(out)
            now = time.perf_counter()
            metrics["steps_per_second"] = (step - counted) / max(now - since, 1e-9)
            metrics["time.input"] = drawing / max(now - since, 1e-9)
            since, counted, drawing = now, step, 0.0
            yield Stepped(step, metrics)
            if not causes and spike is None:
                yield from alarms(step, metrics)
        if too_many:
            raise BadNumbers(task.name, step, _too_many_skipped(watch.in_a_row, number, causes, places_of(batch)))

    def alarms(step: int, metrics: dict[str, float]) -> Iterator[Event]:
        for alarm in monitor.observe(step, metrics) if monitor is not None else ():
            yield Alarmed(step, alarm)

    step = start
    while step < task.total_steps and not _halted(task):
        step += 1
        asked = time.perf_counter()
        batch = next(task.batches)
        drawing += time.perf_counter() - asked
        watch.drawn += 1
        state, out = task.step(state, batch)
        yield from flush()
        last = step == task.total_steps
        pending = (step, watch.drawn, batch, out)
        if not _logged(task, step):
            yield Stepped(step, {})
        leave = stop()
        evaluate = step % task.eval_every == 0 and not last
        save = step % checkpoint_every == 0 or last or leave
        if evaluate or save or monitor is not None or guard.spike:
            yield from flush()
        if spike is not None:
            if watch.rewinds == guard.max_rewinds:
                raise BadNumbers(task.name, step, _too_many_spikes(guard.max_rewinds, spike))
            back = checkpoints.go_back(spike.step, _given_up(state))
            state, step, counted = back.state, back.step, back.step
            found, spike = dataclasses.replace(spike, step=step), None
            watch.rewound(back.meta["guard"])
            if monitor is not None:
                monitor.set_state(back.meta["monitor"])
            del back
            since, drawing = time.perf_counter(), 0.0
            yield found
            if leave:
                yield Stopped(step)
                return
            continue
        if evaluate and not _halted(task):
            found_out = task.evaluate(state, False)
            told = list(alarms(step, held_out(found_out)))
            if not _halted(task):  # else the closing evaluation of this same step is the one to be written down
                yield Evaluated(step, found_out, final=False)
            yield from told
            since, counted, drawing = time.perf_counter(), step, 0.0
        if save or _halted(task):
            scheduled = step // checkpoint_every * checkpoint_every
            if step == scheduled:
                watch.saved()
            if bad := not_finite((state.params, state.opt_state, state.extra)):
                raise BadNumbers(task.name, step, f"not saved: {', '.join(bad[:3])} not finite; {_TRY}")
            checkpoints.save(state, meta_of_step())
            if guard.spike and step != scheduled:  # of those kept one must be that which a spike goes back to
                between = range(scheduled + 1, step)
                checkpoints.drop(between.__contains__)
        if leave:
            checkpoints.wait()
            yield Stopped(step)
            return
    checkpoints.wait()
    found_out = task.evaluate(state, True)
    yield from alarms(step, held_out(found_out))
    yield Evaluated(step, found_out, final=True)


# What a user may do about numbers gone bad.
_TRY = "a lower learning rate or clip_norm, or other data (skipped.jsonl names the examples), makes a new run"


def _too_many_skipped(in_a_row: int, number: int, causes: tuple[str, ...], places: dict[str, list[int]]) -> str:
    told = "; ".join(f"{name} {', '.join(map(str, found[:8]))}" for name, found in places.items())
    return (
        f"{in_a_row} steps on end were skipped, the last for {', '.join(causes)} not finite in batch {number} "
        f"({told or 'places unknown'}); {_TRY}, a higher config.guard.max_skipped lets this one go on"
    )


def _too_many_spikes(rewinds: int, spike: Rewound) -> str:
    return (
        f"loss {spike.loss:.4g} above {spike.bound:.4g} in batch {spike.last}, after {rewinds} rewinds to step "
        f"{spike.step}; {_TRY}, a higher config.guard.max_rewinds lets this one go on"
    )


def _given_up(state: TrainState) -> TrainState:
    """Types, shapes and places of a state whose memory is needed for another; of arrays on the host, these."""

    def form(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    forms = jax.tree.map(lambda leaf: form(leaf) if isinstance(leaf, jax.Array) else leaf, state)
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array):
            leaf.delete()
    return forms


def _logged(task: Task, step: int) -> bool:
    return step % task.log_every == 0 or step == task.total_steps


def held_out(evaluation: Evaluation) -> dict[str, float]:
    """Its metrics as they are written and watched: under names of their own, but for those of training lists."""
    return {name if name.startswith("train.") else f"validation.{name}": v for name, v in evaluation.metrics.items()}


def _halted(task: Task) -> bool:
    """Whether an alarm has ended the stage."""
    return task.halts and task.monitor is not None and bool(task.monitor.fired)
