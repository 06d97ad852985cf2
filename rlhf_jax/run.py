"""A run: its directory, its stages one after the other, and what is written down on the way.

Of several processes the first writes, and all others only compute and save their parts of the checkpoints.
"""

import collections
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rlhf_jax import STARTED
from rlhf_jax.build import (
    Context,
    Shared,
    check_sizes,
    describe_plan,
    inherit_model,
    make_context,
    make_executor,
    make_task,
    saved_bytes,
)
from rlhf_jax.build.identity import settings, stage_identity
from rlhf_jax.checkpoints import Checkpoints, refuse, remove_unfinished
from rlhf_jax.config import ITERATED, from_json, leaves, to_json
from rlhf_jax.console import Console, say
from rlhf_jax.diagnostics.guard import GuardSpec
from rlhf_jax.errors import INTERRUPTED, BadNumbers, DiskError, UserError, exit_code
from rlhf_jax.flags import Launch
from rlhf_jax.loop import (
    Alarmed,
    Evaluated,
    Event,
    Rewound,
    Skipped,
    Started,
    Stepped,
    Stopped,
    Task,
    held_out,
    run,
)
from rlhf_jax.metrics import (
    MetricWriter,
    read_jsonl,
    read_status,
    read_summary,
    rewind_alarms,
    rewind_skipped,
    skipped_counts,
    update_summary,
    write_optimum,
    write_rewards,
    write_samples,
    write_skipped,
    write_status,
    write_text_atomically,
)
from rlhf_jax.owner import Owner
from rlhf_jax.parallel import (
    Stop,
    Watch,
    end_with,
    failing_together,
    heeding_others,
    is_first,
    join,
    wait_for_all,
    watching,
)
from rlhf_jax.reports import write_report
from rlhf_jax.resources import cache_folder, can_write, check_room, refused, what_ran_out
from rlhf_jax.trackers import Trackers, check_trackers

# Told of an evaluation, stage and figures by name, when it is written down. True: the run is not worth going on with.
Judge = Callable[[str, Mapping[str, float]], bool]
PRUNED = "pruned"
SHOWN = (
    "loss",
    "pair_accuracy",
    "grad_norm",
    "reward.mean",
    "gold.open",
    "gold.closed",
    "kl",
    "length",
    "w1_open_closed",
    "collapse_index",
    "time.sampling",
    "time.scoring",
    "time.update",
)


def dry_run(launch: Launch) -> None:
    """Print what the run would do."""
    join()
    with failing_together(lambda *_: None), _said_once():
        inherit_model(launch.config)
        check_trackers(launch.config.log.trackers)
        config_path = Path(launch.workdir) / "config.json"
        if launch.workdir and config_path.is_file() and _has_begun(config_path.parent):
            _same_configuration(config_path, launch.config)
        check_sizes(launch.config, make_executor(launch.config.parallel))
        say(describe_plan(launch.config, Path(launch.workdir) if launch.workdir else None))


def train(launch: Launch) -> None:
    """Run every stage that has not ended yet, then write the report.

    Raises:
      SystemExit: with INTERRUPTED, if a signal stopped it between two steps.
    """
    join()
    go_on(launch)


def go_on(launch: Launch, judge: Judge | None = None, shared: Shared | None = None) -> bool:
    """The same in processes that have met, and for whoever makes many runs in one process, which share what can be
    shared and leave the report for later, and may end one early by its ``judge``.

    Returns whether a signal asked for an end, but too late to stop this run.
    """
    workdir = Path(launch.workdir)

    def last_words(code: int, reason: str) -> None:
        if owner.owns or not is_first():  # before, the directory may be that of another run
            _last_words(workdir, code, reason)

    with (
        Owner(workdir, partial(_disowned, workdir)) as owner,
        failing_together(last_words),
        heeding_others(last_words) as stop,
        watching(last_words) as watch,
        _said_once(),
    ):
        _train(launch, owner, stop, watch, judge, shared)
    return stop.reason not in ("", PRUNED)


def _train(launch: Launch, owner: Owner, stop: Stop, watch: Watch, judge: Judge | None, shared: Shared | None) -> None:
    workdir = Path(launch.workdir)
    laps = Laps(STARTED if shared is None else None)
    laps.lap("imports")
    inherit_model(launch.config)
    check_trackers(launch.config.log.trackers)
    open_run(workdir, launch.config, owner)
    stage = ""
    try:
        use_compilation_cache()
        done = read_summary(workdir)
        if all(f"{stage}.steps" in done for stage in launch.config.stages):
            say(f"{workdir}: this run is done; nothing is left to do but its report")
        context = make_context(launch.config, workdir, shared)
        for note in (*context.data.notes, *context.notes):
            say(note)
        _check_room(context, done)
        laps.lap("data")
        with _trackers(launch.config, workdir) as trackers:
            for stage in launch.config.stages:
                if f"{stage}.steps" not in done:
                    last = run_stage(context, stage, owner, stop, watch, trackers, judge, laps)
                    laps = Laps()
                    if isinstance(last, Stopped) and stop.reason == PRUNED:
                        _set_status(workdir, "pruned", stage=stage, step=last.step, exit_code=0)
                        return
                    if isinstance(last, Stopped):
                        _set_status(
                            workdir,
                            "interrupted",
                            stage=stage,
                            step=last.step,
                            reason=stop.reason,
                            exit_code=INTERRUPTED,
                        )
                        say(f"{stage}: stopped after step {last.step} by {stop.reason}; the same command goes on")
                        raise SystemExit(INTERRUPTED)
        if not is_first():
            return
        reason = stopped_by_monitor(launch.config, read_summary(workdir))
        _set_status(workdir, "done", **where(workdir), reason=reason, exit_code=0)
        report = write_report(workdir) if shared is None else None
    except Exception as error:
        told = what_ran_out(error, workdir, stage)
        _fail(workdir, told or error)
        if told is None:
            raise
        raise told from error
    for name, value in read_summary(workdir).items():
        say(f"{name:32} {value:.4f}")
    if report:
        say(f"report: {report}")


def _trackers(config: ConfigDict, workdir: Path) -> Trackers:
    """Of the first process, which alone writes; the others have none."""
    names = config.log.trackers if is_first() else ()
    return Trackers(names, config.log.project, workdir, dict(leaves(config)))


def _last_words(workdir: Path, code: int, reason: str) -> None:
    """The status of a run that another process has ended, or that has got nowhere."""
    state = "interrupted" if code == INTERRUPTED else "failed"
    # Whoever is left says so, for the first process may be the one that was lost.
    if is_first() or (code == INTERRUPTED and read_status(workdir) == "running"):
        write_status(workdir, state, **where(workdir), reason=reason, exit_code=code)


def _fail(workdir: Path, error: Exception) -> None:
    """The status of a run that an error has ended, which a disk's only interrupts: no trial has failed by it. Nothing
    that is wrong with the words may take the error's place.
    """
    reason = type(error).__name__
    place: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        reason += f": {error}".encode("utf-8", "backslashreplace").decode()
    with contextlib.suppress(Exception):
        place = {"stage": error.stage, "step": error.step} if isinstance(error, BadNumbers) else where(workdir)
    with contextlib.suppress(Exception):
        state = "interrupted" if isinstance(error, DiskError) else "failed"
        if state == "interrupted" and is_first():  # what could not be saved may leave no room for the status
            for directory in (workdir / "checkpoints").glob("*"):
                remove_unfinished(directory)
        _set_status(workdir, state, **place, reason=reason, exit_code=exit_code(error))


def _disowned(workdir: Path) -> None:
    """End at once, writing nothing: the directory is another's now."""
    end_with(INTERRUPTED, f"while it slept another process took {workdir} over", lambda *_: None)


def _check_room(context: Context, done: Mapping[str, float]) -> None:
    """Raises DiskError where the checkpoints of the stages that are left will find no room."""
    if is_first():
        left = {
            stage: size
            for stage, size in saved_bytes(context.config, context.tokenizer.vocab_size).items()
            if f"{stage}.steps" not in done
        }
        check_room(context.workdir, left, context.config.checkpoint.keep)


def _set_status(workdir: Path, state: str, **fields: Any) -> None:
    if is_first():
        write_status(workdir, state, **fields)


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Keep all processes but the first from printing what it prints as well; errors they may tell."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def where(workdir: Path) -> dict[str, Any]:
    """Stage and step of the last row of metrics, for the status."""
    rows = read_jsonl(workdir / "metrics.jsonl")
    return {"stage": rows[-1]["stage"], "step": rows[-1]["step"]} if rows else {}


def open_run(workdir: Path, config: ConfigDict, owner: Owner) -> None:
    """Make the run directory and own it, or see that it holds a run of the same configuration.

    A run that came to nothing, say for a batch that the devices cannot share, may be corrected in its place.

    Raises:
      UserError: it cannot be made, another process trains there, another configuration was run there, or not all
        processes see it.
    """
    path = workdir / "config.json"
    if is_first():
        _make_run(workdir, path, config, owner)
    wait_for_all("open_run")
    if not path.is_file():
        raise UserError(
            f"--workdir: {workdir}: process {jax.process_index()} does not see what the first one wrote there; "
            "all processes need one shared folder"
        )


def _make_run(workdir: Path, path: Path, config: ConfigDict, owner: Owner) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if note := owner.take():
            say(note)
        if path.is_file():
            if _has_begun(workdir):
                _same_configuration(path, config)
            else:
                shutil.rmtree(workdir / "tokenizer", ignore_errors=True)
        write_text_atomically(path, to_json(config))
        write_text_atomically(workdir / "env.json", json.dumps(environment(), indent=2) + "\n")
    except OSError as error:
        raise refused(error, f"--workdir: {workdir}: {error.strerror}") from error


def _has_begun(workdir: Path) -> bool:
    return bool(read_jsonl(workdir / "metrics.jsonl")) or any((workdir / "checkpoints").glob("*/[0-9]*"))


def _same_configuration(path: Path, config: ConfigDict) -> None:
    old, new = ({"config": settings(one)} for one in (from_json(path.read_text()), config))
    for note in refuse(str(path), old, new, config.checkpoint.accept):
        say(note)


def environment() -> dict[str, object]:
    """Versions and machine, for the record; no environment variable is copied."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "tokenizers", "numpy")
    return {
        "rlhf_jax": importlib.metadata.version("rlhf_jax"),
        "commit": revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        **{name: importlib.metadata.version(name) for name in packages},
    }


def revision() -> str:
    """The commit of the checkout that the program runs from, with "-dirty" where files differ; "" without one."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 our own words, no shell
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed into somebody else's checkout it is no file of that
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return ""


def use_compilation_cache() -> None:
    """Keep compiled programs on disk, so that a resumed or repeated run starts at once; without one it starts later."""
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        root, note = cache_folder()
    except OSError as error:
        say(f"compiled programs are not kept: {error}")
        return
    if note:
        say(note)
    if not can_write(root / "xla"):
        say(f"compiled programs are not kept: {root / 'xla'} cannot be written")
        return
    jax.config.update("jax_compilation_cache_dir", str(root / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def run_stage(
    context: Context,
    stage: str,
    owner: Owner,
    stop: Stop,
    watch: Watch,
    trackers: Trackers,
    judge: Judge | None = None,
    laps: "Laps | None" = None,
) -> Event:
    """Drain one stage's loop and write down every event; returns the last. Tells what came before its first step, from
    the first of the ``laps`` on.
    """
    laps = laps or Laps()
    config = context.config
    watch.begin()
    # Gloo gives the processes 30 seconds to meet in their first collective; data may take one of them longer to read.
    wait_for_all(stage)
    task = make_task(context, stage)
    for note in task.notes:
        say(f"{stage}: {note}")
    laps.lap("state")
    with Checkpoints(
        context.workdir / "checkpoints" / stage,
        keep=config.checkpoint.keep + bool(config.guard.spike),  # one between two that a spike may go back to
        identity=stage_identity(context, stage),
        accept=config.checkpoint.accept,
    ) as checkpoints:
        every = config.checkpoint.every_iterations if stage in ITERATED else config.checkpoint.every
        task = dataclasses.replace(task, evaluate=watch.patiently(task.evaluate))

        def boundary() -> bool:
            watch.step()
            owner.check()  # the step may be saved next
            return stop()

        guard = GuardSpec(**config.guard.to_dict())
        events = _owned(run(task, checkpoints, checkpoint_every=every, stop=boundary, guard=guard), owner)
        events = _timed(events, stage, laps)
        if judge is not None:
            events = _judged(events, stage, judge, stop)
        return record(context, task, events, trackers) if is_first() else collections.deque(events, maxlen=1).pop()


class Laps:
    """Seconds from ``since`` (the program's clock; None: now) on, by what they went to."""

    def __init__(self, since: float | None = None) -> None:
        self._mark = time.perf_counter() if since is None else since
        self._spent: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """All since the last one was for this part."""
        now = time.perf_counter()
        self._spent[part], self._mark = now - self._mark, now

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self._spent.items())
        return f"{sum(self._spent.values()):.1f} s ({parts})"


def _timed(events: Iterator[Event], stage: str, laps: Laps) -> Iterator[Event]:
    """The events; says when the first step is done: compiled, handed over and, where it is logged, read."""
    told = False
    for event in events:
        if isinstance(event, Stepped) and not told:
            laps.lap("first step")
            say(f"{stage}: first step after {laps}")
            told = True
        yield event


def _owned(events: Iterator[Event], owner: Owner) -> Iterator[Event]:
    """The events, each of which is written down next, as long as the run directory is this process's."""
    for event in events:
        owner.check()
        yield event


def _judged(events: Iterator[Event], stage: str, judge: Judge, stop: Stop) -> Iterator[Event]:
    """The events, which end early where the judge says so of an evaluation."""
    for event in events:
        yield event  # whoever drains them has written it down when the next one is asked for
        if isinstance(event, Evaluated) and not event.final and judge(stage, event.evaluation.metrics):
            stop.ask(PRUNED)


def record(context: Context, task: Task, events: Iterator[Event], trackers: Trackers) -> Event:
    """Write down every event of a stage; returns the last."""
    config, workdir, stage = context.config, context.workdir, task.name
    with MetricWriter(workdir, tensorboard=config.log.tensorboard, mirror=trackers) as writer:
        event = next(events)
        start = event.step
        closing = isinstance(event, Started) and event.closing
        writer.rewind(stage, start, held_out=not closing)
        rewind_alarms(workdir, stage, start)
        rewind_skipped(workdir, stage, event.drawn if isinstance(event, Started) else 0)
        write_status(workdir, "running", stage=stage, step=start)
        if task.optimum:
            write_optimum(workdir, stage, task.optimum)
        for note in event.notes if isinstance(event, Started) else ():
            say(f"{stage}: {note}")
        if start:
            say(f"{stage}: going on from step {start}")
        with Console(task.total_steps, stage, start=start) as console:
            for event in events:
                if isinstance(event, Evaluated):
                    record_evaluation(workdir, stage, event, writer, console)
                    continue
                if isinstance(event, Alarmed):
                    record_alarm(workdir, task, event, console)
                    continue
                if isinstance(event, Skipped | Rewound):
                    record_bad_numbers(workdir, stage, event, writer, console)
                    continue
                console.advance(event.step)
                if isinstance(event, Stepped) and event.metrics:
                    writer.write(stage, event.step, event.metrics)
                    write_status(workdir, "running", stage=stage, step=event.step)
                    if event.step % config.log.every == 0 or event.step == task.total_steps:
                        console.log(event.step, _shown(event.metrics))
    return event


def record_evaluation(workdir: Path, stage: str, event: Evaluated, writer: MetricWriter, console: Console) -> None:
    """Write down what an evaluation found; the final one goes into the summary, which marks the stage as finished."""
    found = event.evaluation
    writer.write(stage, event.step, held_out(found))
    console.print(f"{stage} held-out after {event.step}: {_line(found.metrics)}")
    for warning in found.warnings:
        console.print(f"{stage} warning: {warning}")
    if found.samples:
        write_samples(workdir, stage, event.step, found.samples)
        console.samples(found.samples, f"{stage}, step {event.step}")
    if found.rewards:
        write_rewards(workdir, stage, event.step, found.rewards)
    if event.final:
        values = {f"{stage}.{name}": value for name, value in found.metrics.items()}
        update_summary(workdir, {**values, **skipped_counts(workdir, stage), f"{stage}.steps": event.step})


def record_alarm(workdir: Path, task: Task, event: Alarmed, console: Console) -> None:
    """Tell of an alarm; ``STAGE.alarm.SIGNAL`` in the summary is the step that set it off."""
    ends = "; it ends here" if task.halts else ""
    console.print(f"{task.name} warning: monitor after step {event.step}: {event.alarm}{ends}")
    name = event.alarm.signal.removeprefix("validation.")
    update_summary(workdir, {f"{task.name}.alarm.{name}": event.step})


def record_bad_numbers(
    workdir: Path, stage: str, event: Skipped | Rewound, writer: MetricWriter, console: Console
) -> None:
    """Tell of a step that was skipped, or of a rewind, whose steps' rows and alarms are forgotten."""
    places = "; ".join(f"{name} {', '.join(map(str, found[:8]))}" for name, found in event.places.items())
    if isinstance(event, Skipped):
        row = {"step": event.step, "batch": event.batch, "not_finite": list(event.causes), "in_a_row": event.in_a_row}
        told = f"step {event.step} skipped, {', '.join(event.causes)} not finite: batch {event.batch} ({places})"
    else:
        row = {"step": event.spike, "batch": event.last, "loss": event.loss, "bound": event.bound}
        row |= {"rewound_to": event.step, "batches": [event.first, event.last]}
        told = (
            f"loss {event.loss:.4g} above {event.bound:.4g} at step {event.spike}: back to step {event.step}, "
            f"batches {event.first} to {event.last} left out"
        )
        writer.rewind(stage, event.step)
        rewind_alarms(workdir, stage, event.step)
        console.advance(event.step)
    write_skipped(workdir, stage, row | event.places)
    console.print(f"{stage} warning: {told}")


def stopped_by_monitor(config: ConfigDict, summary: dict[str, float]) -> str:
    """Why PPO ended before its last iteration, empty if it did not."""
    alarms = [name.removeprefix("ppo.alarm.") for name in summary if name.startswith("ppo.alarm.")]
    if config.ppo.monitor.action != "stop" or not alarms or summary["ppo.steps"] >= config.ppo.iterations:
        return ""
    return f"ppo stopped by monitor after iteration {summary['ppo.steps']:.0f}: {', '.join(alarms)}"


def _shown(metrics: dict[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in SHOWN if name in metrics}


def _line(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
