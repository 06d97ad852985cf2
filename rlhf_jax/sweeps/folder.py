"""The folder of a sweep: ``sweep.json``, and a run directory for each trial, which is the truth about it.

A folder is prepared under another name and renamed into its place with all that it must have in it. The rename is the
exclusive step too: a folder that is there and not empty is never replaced.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.metrics import read_json, read_metrics, read_summary, write_text_atomically
from rlhf_jax.owner import machine
from rlhf_jax.sweeps import claims
from rlhf_jax.sweeps.spec import SweepSpec, differences, from_json, to_json

Value = bool | int | float | str
SPACE = "space.py"
ENDED = ("done", "failed", "pruned")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point under one seed, as its folder says. ``state`` is that of STATUS.json: see docs/sweeps.md."""

    folder: Path
    number: int
    point: int
    seed: int
    parameters: dict[str, Value]
    state: str
    reason: str
    summary: dict[str, float]  # of a trial that is done

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def curve(self, metric: str) -> dict[int, float]:
        """The figure at each evaluation but the last: step -> value. ``metric`` is a name of the summary."""
        stage, _, name = metric.partition(".")
        rows = read_metrics(self.folder)
        name = name if name.startswith("train.") else f"validation.{name}"
        found = {row["step"]: row["metrics"][name] for row in rows if row["stage"] == stage and name in row["metrics"]}
        return {step: value for step, value in found.items() if math.isfinite(value)}


def digest(text: str) -> str:
    """What tells one file of a space from another; "" of no text."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def open_sweep(folder: Path, spec: SweepSpec, file: str) -> None:
    """Begin a sweep, or see that this is the sweep that was begun; ``file`` is the text of the file of its space.

    Raises:
      UserError: the folder cannot be made, holds something else, or another sweep; says what differs.
    """
    path = folder / "sweep.json"
    try:
        if not path.is_file():
            _place(folder, {path.name: to_json(spec)} | ({SPACE: file} if file else {}))
        if not path.is_file():
            raise UserError(f"--workdir: {folder}: not empty, and no sweep")
        old = read_sweep(folder)
        if lines := differences(old, spec):
            more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
            shown = "; ".join(lines[:3])
            raise UserError(f"{folder}: another sweep was begun here: {shown}{more}; name another --workdir")
        if old.points > spec.points:
            raise UserError(f"--points: {spec.points}, but the sweep in {folder} has {old.points}; there may be more")
        if old != spec:
            write_text_atomically(path, to_json(spec))
    except OSError as error:
        raise UserError(f"--workdir: {folder}: {error.strerror}") from error


def read_sweep(folder: Path) -> SweepSpec:
    """The sweep of a folder.

    Raises:
      UserError: there is none.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise UserError(f"{folder}: no sweep there (it has no sweep.json)")
    return from_json(path.read_text(encoding="utf-8"))


def trial_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04}"


def make_trial(folder: Path, spec: SweepSpec, number: int, parameters: Mapping[str, Value]) -> Path | None:
    """Make a trial and claim it for this process; None where another was faster. Returns the claim."""
    point, place = divmod(number, len(spec.seeds))
    what = {
        "trial": number,
        "point": point,
        "seed": spec.seeds[place],
        "parameters": dict(parameters),
        "time": time.time(),
    }
    path = trial_folder(folder, number)
    files = {"trial.json": json.dumps(what, indent=2) + "\n", "claims/1.json": claims.text_of({})}
    return path / "claims" / "1.json" if _place(path, files) else None


def read_trials(folder: Path) -> list[Trial]:
    """All trials that were made, by number.

    Raises:
      UserError: a file of a trial is not what it must be; names it.
    """
    found = []
    for path in sorted((folder / "trials").glob("[0-9]*")):
        what = read_json(path / "trial.json")
        if not what:
            if path.exists():
                raise UserError(
                    f"{path}: no trial.json in it; rename the folder to begin with a dot, and the trial runs anew"
                )
            continue  # removed since
        status = read_json(path / "STATUS.json")
        state = status.get("state", "running")
        summary = read_summary(path) if state == "done" else {}
        try:
            names = (what["trial"], what["point"], what["seed"], what["parameters"])
        except KeyError as error:
            raise UserError(f"{path / 'trial.json'}: no {error}") from None
        found.append(Trial(path, *names, state, _reason(state, status), summary))
    return sorted(found, key=lambda trial: trial.number)


def _reason(state: str, status: Mapping[str, Any]) -> str:
    return str(status.get("reason", "")) if state in ("failed", "interrupted") else ""


def _place(folder: Path, files: Mapping[str, str]) -> bool:
    """Make a folder with these files in it; False where there is one already that is not empty."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prepared = folder.with_name(f".{folder.name}.{digest(machine())[:8]}.{os.getpid()}")
    shutil.rmtree(prepared, ignore_errors=True)
    for name, text in files.items():
        write_text_atomically(prepared / name, text)
    try:
        prepared.rename(folder)
    except OSError:
        shutil.rmtree(prepared, ignore_errors=True)
        if not folder.exists():
            raise
        return False
    return True
