"""Experiment trackers: the rows of ``metrics.jsonl``, sent on to Weights & Biases or to trackio as they are written.

They are mirrors. The file stays the source of truth, and no tracker that fails ends a run.
"""

import importlib.util
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlhf_jax.console import say
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import said
from rlhf_jax.metrics import read_json, read_metrics, write_text_atomically

STATE = "tracker.json"  # of a run: which run of the trackers is its own, and which trackers have its rows


class Tracker(Protocol):
    """What the rest knows of a tracker."""

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """One row; the steps of a stage never fall, those of stages have nothing to do with each other."""

    def close(self, *, failed: bool) -> None:
        """Send what is left."""


class _WandB:
    """Each stage counts its own steps, W&B counts rows: the step is a metric, against which those of the stage are
    drawn. Offline, and where to: by its own WANDB_MODE and the like.
    """

    def __init__(self, project: str, name: str, run_id: str, workdir: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=name,
            id=run_id,
            resume="allow",
            dir=workdir,
            config=dict(config),
            settings=wandb.Settings(console="off", disable_git=True, save_code=False),
        )
        self._stages: set[str] = set()

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        if stage not in self._stages:
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log({f"{stage}/step": step} | _named(stage, metrics))

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Trackio:
    """On this machine, in trackio's own folder (TRACKIO_DIR), unless its environment names a Space. A run goes on by
    its name, which has to be the only one."""

    def __init__(self, project: str, name: str, run_id: str, workdir: Path, config: Mapping[str, Any]) -> None:
        import trackio

        self._run = trackio.init(
            project=project,
            name=f"{name}-{run_id}",
            resume="allow",
            config=dict(config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(_named(stage, metrics), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[str, str, str, Path, Mapping[str, Any]], Tracker]] = {
    "wandb": _WandB,
    "trackio": _Trackio,
}


class Trackers:
    """Those that a run asks for. One that fails is told of once and left alone from then on."""

    def __init__(self, names: Sequence[str], project: str, workdir: Path, config: Mapping[str, Any]) -> None:
        """Open them: the runs that ``workdir`` had there go on, and one that is new there gets the rows so far."""
        self._open: dict[str, Tracker] = {}
        if not names:
            return
        known = read_json(workdir / STATE)
        run_id, informed = known.get("id") or secrets.token_hex(4), list(known.get("trackers", ()))
        _remember(workdir, run_id, informed)
        for name in names:
            self._try(name, self._begin, name, (project, workdir.resolve().name, run_id, workdir, config))
            if name not in informed:
                self._try(name, self._catch_up, name, workdir)
            if name in self._open and name not in informed:
                informed.append(name)
                _remember(workdir, run_id, informed)

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """One row to all of them."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.log, stage, step, metrics)

    def close(self, *, failed: bool = False) -> None:
        """Have all send what is left."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda one=tracker: one.close(failed=failed))
        self._open.clear()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(failed=kind is not None)

    def _begin(self, name: str, about: tuple[Any, ...]) -> None:
        self._open[name] = TRACKERS[name](*about)

    def _catch_up(self, name: str, workdir: Path) -> None:
        if name in self._open:
            for row in read_metrics(workdir):
                self._open[name].log(row["stage"], row["step"], row["metrics"])

    def _try(self, name: str, step: Callable[..., None], *words: Any) -> None:
        try:
            step(*words)
        except Exception as error:  # whatever a library, a network or a disk may do
            self._open.pop(name, None)
            say(f"{name} failed, and the run goes on without it: {said(error, typed=True)}")


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError where a tracker that is asked for is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"config.log.trackers: {name} is not installed; pip install 'rlhf_jax[{name}]'")


def _remember(workdir: Path, run_id: str, informed: Sequence[str]) -> None:
    state = {"id": run_id, "trackers": list(informed)}
    write_text_atomically(workdir / STATE, json.dumps(state) + "\n")


def _named(stage: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{stage}/{name}": value for name, value in metrics.items()}
