"""The runs below a folder as trials of points: a sweep's (``sweep.json``, ``trials/``), or an experiment's settings.

A point is one choice of the settings that vary, a trial one run of it under one seed. What an experiment varies is read
off its runs: settings named ``NAME.SEED`` are trials of the point NAME, others are one point where they differ in
nothing but the seed; its parameters are the settings that are the same within points and differ between some.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from rlhf_jax.diagnostics.intervals import half_width
from rlhf_jax.diagnostics.ranking import Objective, rank_key
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import read_json, read_summary
from rlhf_jax.reports.differences import differing, leaves
from rlhf_jax.reports.fields import is_number, is_whole

DEPTH = 4  # how far below the folder a run may lie
# Figures by which runs are ranked where nobody says: the first that most of them have, if any.
MAIN = (
    "ppo.gold.open", "online.gold.open", "dpo.gold.open", "reward.pair_accuracy", "ppo.reward.mean", "sft.loss",
)  # fmt: skip
# Words in the names of figures of which less is better, or more.
LOWER = {"loss", "kl", "ece", "brier", "rmse", "nll", "entropy", "distance", "index"}
HIGHER = {"accuracy", "gold", "tau", "ndcg", "auroc"}

Parameters = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run; ``state`` as in STATUS.json, "" where there is none."""

    name: str
    folder: Path
    point: str
    seed: int | None
    state: str
    reason: str
    summary: Mapping[str, float]

    def value(self, metric: str) -> float:
        """A figure of its summary, NaN where it has none or did not end."""
        ended = self.state in ("done", "")
        return self.summary.get(metric, np.nan) if ended else np.nan


@dataclasses.dataclass(frozen=True)
class Point:
    """One choice of the settings that vary, and its trials."""

    name: str
    parameters: Parameters
    trials: Sequence[Trial]

    def values(self, metric: str) -> Float[np.ndarray, "S"]:
        """A figure of the trials that have it, one a seed."""
        found = np.array([trial.value(metric) for trial in self.trials], float)
        return found[np.isfinite(found)]

    def by_seed(self, metric: str) -> dict[int | None, float]:
        """The same by seed; of a seed that has several trials the last one's."""
        return {trial.seed: value for trial in self.trials if np.isfinite(value := trial.value(metric))}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Points of a folder. ``record`` is ``sweep.json``, empty of an experiment."""

    folder: Path
    points: Sequence[Point]
    objectives: Sequence[Objective]
    record: Mapping[str, Any]

    @property
    def trials(self) -> list[Trial]:
        """All of them."""
        return [trial for point in self.points for trial in point.trials]

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters, in the order in which points have them."""
        return list(dict.fromkeys(name for point in self.points for name in point.parameters))

    def ranked(self, objective: Objective) -> list[Point]:
        """The points, best first."""

        def key(point: Point) -> tuple[bool, bool, float]:
            failed = any(trial.state == "failed" for trial in point.trials)
            return rank_key(objective, point.values(objective.metric), failed=failed)

        return sorted(self.points, key=key)


def mean_and_half_width(values: Float[np.ndarray, "S"]) -> tuple[float, float | None]:
    """Mean and half of its 95 % interval by Student's t over seeds; None for fewer than two values."""
    return float(values.mean()), half_width(values)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is no run itself but holds some."""
    return not is_run(folder) and bool(_runs_below(folder))


def read_sweep(folder: Path, metric: str = "") -> Sweep:
    """The trials below a folder; ``metric`` ("NAME", "NAME:max" or "NAME:min") says what they are ranked by.

    Raises:
      UserError: there is none, a record cannot be read, or no trial has the metric.
    """
    record = read_json(folder / "sweep.json")
    points = _points_of_sweep(folder) if record else _points_of_experiment(folder)
    if not points:
        raise UserError(f"{folder}: no run in this folder")
    summaries = [trial.summary for point in points for trial in point.trials]
    return Sweep(folder, points, _objectives(record, summaries, metric, folder), record)


def _points_of_sweep(folder: Path) -> list[Point]:
    found: dict[str, list[Trial]] = {}
    parameters: dict[str, Parameters] = {}
    for path in sorted((folder / "trials").glob("[!.]*/trial.json")):
        told = read_json(path)
        if not is_whole(told.get("point")) or not isinstance(told.get("parameters"), dict):
            raise UserError(f"{path}: expected a trial with a whole number as point and an object as parameters")
        name = f"point {told['point']}"
        seed = told.get("seed")
        found.setdefault(name, []).append(_trial(path.parent, path.parent.name, name, seed if is_whole(seed) else None))
        parameters[name] = told["parameters"]
    return [Point(name, parameters[name], trials) for name, trials in found.items()]


def _points_of_experiment(folder: Path) -> list[Point]:
    folders = _runs_below(folder)
    names = {path: str(path.relative_to(folder)) for path in folders}
    configs = {path: dict(leaves(read_json(path / "config.json"))) for path in folders}
    matches = {path: re.fullmatch(r"(.+)\.(\d+)", name) for path, name in names.items()}
    # Names such as beta0.1 end in a number that is no seed: then the settings tell what belongs together.
    named = all(match and configs[path].get("seed", int(match[2])) == int(match[2]) for path, match in matches.items())
    varying = differing(list(configs.values()))
    groups: dict[str, list[Path]] = {}
    for place, path in enumerate(folders):
        match = matches[path]
        own = {key: values[place] for key, values in varying.items() if key != "seed"}
        # A run without a configuration is a point of its own.
        told = ", ".join(f"{key}={value}" for key, value in own.items()) if configs[path] else names[path]
        groups.setdefault(match[1] if named and match else told or "all", []).append(path)
    places = {path: place for place, path in enumerate(folders)}
    shared = [
        key
        for key, values in varying.items()
        if key != "seed" and all(len({values[places[path]] for path in group}) == 1 for group in groups.values())
    ]
    points = []
    for name, group in groups.items():
        trials = [_trial(p, names[p], name, _seed(configs[p], matches[p] if named else None)) for p in group]
        points.append(Point(name, {key: configs[group[0]].get(key) for key in shared}, trials))
    return points


def _trial(folder: Path, name: str, point: str, seed: int | None) -> Trial:
    status = read_json(folder / "STATUS.json")
    # Of a trial that has just been made there is no status; experiments' own records need none.
    state = str(status.get("state") or ("running" if (folder / "trial.json").is_file() else ""))
    return Trial(name, folder, point, seed, state, str(status.get("reason") or ""), read_summary(folder))


def _seed(config: Mapping[str, Any], match: re.Match[str] | None) -> int | None:
    if is_whole(config.get("seed")):
        return int(config["seed"])
    return int(match[2]) if match else None


def _objectives(
    record: Mapping[str, Any], summaries: Sequence[Mapping[str, float]], metric: str, folder: Path
) -> list[Objective]:
    if metric:
        name, _, direction = metric.partition(":")
        known = {key for summary in summaries for key in summary}
        if name not in known:
            # Imported here: nearest names are for mistakes only.
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"report: --metric: no summary below {folder} has {name!r}{hint}")
        if not direction:
            return [Objective(name, _usual_direction(name))]
        return [Objective(name, "max" if direction == "max" else "min")]
    if record:
        listed = record.get("objectives")
        objectives = [
            Objective(one["metric"], one["direction"])
            for one in (listed if isinstance(listed, list) else [])
            if isinstance(one, dict) and {"metric", "direction"} <= one.keys()
        ]
        if objectives:
            return objectives
    counts = {name: sum(is_number(summary.get(name)) for summary in summaries) for name in MAIN}
    best = max(counts, key=lambda name: counts[name])  # the first of equals
    return [Objective(best, _usual_direction(best))] if counts[best] else []


def _usual_direction(name: str) -> Literal["max", "min"]:
    words = set(re.split(r"[._]", name))
    if words & LOWER:
        return "min"
    if words & HIGHER or name in MAIN:
        return "max"
    raise UserError(f"report: --metric: {name}: say which way is better, {name}:max or {name}:min")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory, or has at least the summary of one."""
    return any((folder / name).exists() for name in ("summary.json", "metrics.jsonl", "config.json", "evaluation"))


def _runs_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Runs below a folder, by name; what lies within a run is its own."""
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if is_run(path):
            found.append(path)
        elif depth > 1:
            found += _runs_below(path, depth - 1)
    return found
