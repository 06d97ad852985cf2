"""What the trials of a sweep say together: points with intervals over their seeds, best first."""

import collections
import csv
import dataclasses
import difflib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.console import clean_text
from rlhf_jax.diagnostics.intervals import half_width
from rlhf_jax.diagnostics.ranking import Objective, behind, rank_key
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import write_text_atomically
from rlhf_jax.sweeps.folder import Trial, Value
from rlhf_jax.sweeps.spec import SweepSpec


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of the swept keys, with the trials of it that were made."""

    number: int
    parameters: dict[str, Value]
    trials: tuple[Trial, ...]

    @property
    def pruned(self) -> bool:
        return any(trial.state == "pruned" for trial in self.trials)

    @property
    def failed(self) -> bool:
        """Whether a seed did: the mean over the others flatters the point."""
        return any(trial.state == "failed" for trial in self.trials)

    def values(self, objective: Objective) -> dict[int, float]:
        """The figure by seed, of the trials that are done."""
        return {one.seed: one.summary[objective.metric] for one in self.trials if one.state == "done"}

    def mean(self, objective: Objective) -> float | None:
        """The mean over seeds, None where no trial is done."""
        values = self.values(objective)
        return float(np.mean(list(values.values()))) if values else None


def points_of(trials: Sequence[Trial]) -> list[Point]:
    """The trials by point, by number."""
    by_point: dict[int, list[Trial]] = collections.defaultdict(list)
    for trial in trials:
        by_point[trial.point].append(trial)
    return [Point(number, found[0].parameters, tuple(found)) for number, found in sorted(by_point.items())]


def counted(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The trials, of which those count as failed whose objective is no finite number.

    Raises:
      UserError: a finished run has no such figure; names the nearest.
    """
    found = []
    for trial in trials:
        for objective in objectives if trial.state == "done" else ():
            if objective.metric not in trial.summary:
                near = difflib.get_close_matches(objective.metric, trial.summary, n=1, cutoff=0.3)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UserError(
                    f"--objective: {objective.metric}: no such figure in {trial.folder / 'summary.json'}{hint}"
                )
            value = trial.summary[objective.metric]
            if not math.isfinite(value):
                trial = dataclasses.replace(trial, state="failed", reason=f"{objective.metric} is {value}")
        found.append(trial)
    return found


def ranked(points: Sequence[Point], objective: Objective) -> list[Point]:
    """Best first, equals by number."""

    def key(point: Point) -> tuple[tuple[bool, bool, float], int]:
        return rank_key(objective, list(point.values(objective).values()), failed=point.failed), point.number

    return sorted(points, key=key)


def front(points: Sequence[Point], objectives: Sequence[Objective]) -> set[int]:
    """Numbers of the points that no other one dominates: at least as good in all objectives and better in one."""
    means = {point.number: [point.mean(one) for one in objectives] for point in points}
    known = {number: found for number, found in means.items() if None not in found}

    def dominates(one: list[Any], other: list[Any]) -> bool:
        gains = [objective.better(a, b) for objective, a, b in zip(objectives, one, other, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    return {number for number, own in known.items() if not any(dominates(one, own) for one in known.values())}


def as_json(spec: SweepSpec, trials: Sequence[Trial]) -> dict[str, Any]:
    """What ``results.json`` holds: see docs/sweeps.md."""
    points = points_of(trials)
    best = {one.metric: next(iter(ranked(points, one)), None) for one in spec.objectives}
    on_front = front(points, spec.objectives)
    return {
        "objectives": [dataclasses.asdict(one) for one in spec.objectives],
        "states": dict(sorted(collections.Counter(trial.state for trial in trials).items())),
        "points": [_point_json(spec, point, best, on_front) for point in ranked(points, spec.objectives[0])],
    }


def _point_json(spec: SweepSpec, point: Point, best: dict[str, Point | None], on_front: set[int]) -> dict[str, Any]:
    values = {one.metric: point.values(one) for one in spec.objectives}
    gaps = {}
    for one in spec.objectives:
        first = best[one.metric]
        gap = None if first is None else behind(one, values[one.metric], first.values(one))
        gaps[one.metric] = (None, None) if gap is None else (0.0, 0.0) if point == first else gap
    return {
        "point": point.number,
        "parameters": point.parameters,
        "trials": [trial.number for trial in point.trials],
        "seeds": [trial.seed for trial in point.trials],
        "states": [trial.state for trial in point.trials],
        "reasons": [trial.reason for trial in point.trials],
        "values": {name: [found.get(trial.seed) for trial in point.trials] for name, found in values.items()},
        "mean": {one.metric: point.mean(one) for one in spec.objectives},
        "half_width": {name: half_width(list(found.values())) for name, found in values.items()},
        "behind": {name: gap for name, (gap, _) in gaps.items()},
        "behind_half_width": {name: width for name, (_, width) in gaps.items()},
        "front": point.number in on_front,
    }


def as_csv(trials: Sequence[Trial]) -> str:
    """What ``results.csv`` holds: a row a trial."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.parameters))
    names = sorted({name for trial in trials for name in trial.summary})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(_cell, ["trial", "point", "seed", "state", "reason", *keys, *names]))
    for trial in trials:
        told = [trial.number, trial.point, trial.seed, trial.state, trial.reason]
        told += [*(trial.parameters.get(key, "") for key in keys), *(trial.summary.get(n, "") for n in names)]
        table.writerow([_cell(value) for value in told])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Of a text what a spreadsheet takes for a text, and not for a formula."""
    if not isinstance(value, str):
        return value
    text = clean_text(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def write_results(folder: Path, spec: SweepSpec, trials: Sequence[Trial]) -> dict[str, Any]:
    """Rebuild ``results.json`` and ``results.csv``; returns the former's content."""
    found = as_json(spec, trials)
    write_text_atomically(folder / "results.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_text_atomically(folder / "results.csv", as_csv(trials))
    return found
