"""The records of a run directory, as the report needs them. Everything may be missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.foreign import check_run
from rlhf_jax.metrics import read_json, read_jsonl, read_metrics, read_summary
from rlhf_jax.reports.fields import Fields, check_fields, is_number, is_text, is_whole

Row = dict[str, Any]
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class RewardLists:
    """Held-out rewards of N lists of one prompt type, padded to K responses; ranks count from 0 = best.

    ``better[n, i, j]``: response i was judged better than j, which of a partial order the ranks do not tell.
    ``best`` and ``gold``: the reward at the optimum of the list, and the true one; ``lengths`` are in tokens; NaN where
    unknown.
    """

    rewards: Float[np.ndarray, "N K"]
    ranks: Int[np.ndarray, "N K"]
    mask: Bool[np.ndarray, "N K"]
    better: Bool[np.ndarray, "N K K"]
    best: Float[np.ndarray, "N K"]
    gold: Float[np.ndarray, "N K"]
    lengths: Float[np.ndarray, "N K"]

    @property
    def values(self) -> Float[np.ndarray, "M"]:
        """The rewards of all responses, without padding."""
        return self.rewards[self.mask]

    @property
    def has_best(self) -> bool:
        """Whether the reward at the optimum is known of every response, and there is one."""
        return bool(self.mask.any()) and not np.isnan(self.best[self.mask]).any()


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run directory holds. ``rewards``, ``samples`` and ``optimum`` are by stage, in the order they ran,
    ``samples`` of a stage by step; ``evaluations`` are those of ``rlhf-jax evaluate`` by name.
    """

    workdir: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    status: Mapping[str, Any]
    summary: Mapping[str, float]
    metrics: list[Row]
    rewards: Mapping[str, Mapping[str, RewardLists]]
    samples: Mapping[str, Mapping[int, list[Row]]]
    optimum: Mapping[str, Mapping[str, Any]]
    evaluations: Mapping[str, Mapping[str, Any]]

    @property
    def stages(self) -> list[str]:
        """Stages with metrics, in the order in which they first wrote any."""
        return list(dict.fromkeys(str(row["stage"]) for row in self.metrics))

    def names(self, stage: str) -> list[str]:
        """Sorted names of the metrics that ``stage`` wrote."""
        return sorted({name for row in self.metrics if row["stage"] == stage for name in row["metrics"]})

    def series(self, stage: str, name: str) -> tuple[Int[np.ndarray, "S"], Float[np.ndarray, "S"]]:
        """``series`` of its metrics."""
        return series(self.metrics, stage, name)


def series(rows: Sequence[Row], stage: str, name: str) -> tuple[Int[np.ndarray, "S"], Float[np.ndarray, "S"]]:
    """Steps and values of one metric of ``metrics.jsonl``; a step written twice counts with its last value."""
    points = {
        int(row["step"]): row["metrics"][name] for row in rows if row["stage"] == stage and name in row["metrics"]
    }
    steps = sorted(points)
    return np.array(steps, dtype=int), np.array([points[step] for step in steps], dtype=float)


def read_run(workdir: Path) -> Run:
    """Read every record there is. Raises UserError, naming file and line, where one cannot be read."""
    if (workdir / "config.json").is_file():
        check_run(workdir)
    metrics = read_metrics(workdir)
    order = list(dict.fromkeys(str(row["stage"]) for row in metrics))
    rewards: dict[str, Mapping[str, RewardLists]] = {
        path.stem: lists_by_type(newest_held_out(_read_rewards(path))) for path in (workdir / "rewards").glob("*.jsonl")
    }
    samples: dict[str, Mapping[int, list[Row]]] = {
        path.name: _samples(path) for path in (workdir / "samples").glob("*") if path.is_dir()
    }
    return Run(
        workdir=workdir,
        config=read_json(workdir / "config.json"),
        environment=read_json(workdir / "env.json"),
        status=read_json(workdir / "STATUS.json"),
        summary=read_summary(workdir),
        metrics=metrics,
        rewards=_in_order(rewards, order),
        samples=_in_order(samples, order),
        optimum=_in_order({path.stem: read_json(path) for path in (workdir / "optimum").glob("*.json")}, order),
        evaluations={path.stem: read_json(path) for path in sorted((workdir / "evaluation").glob("*.json"))},
    )


def newest_held_out(rows: list[Row]) -> list[Row]:
    """Of the rows of ``rewards/STAGE.jsonl``, the held-out responses at the last evaluation."""
    held_out = [row for row in rows if (row.get("split") or "validation") == "validation"]
    last = max((row.get("step") or 0 for row in held_out), default=0)
    return [row for row in held_out if (row.get("step") or 0) == last]


def lists_by_type(rows: list[Row]) -> dict[str, RewardLists]:
    """Rows of one evaluation, by prompt type in the order in which types are shown; lists as they come."""
    types = sorted({str(row.get("prompt_type") or "") for row in rows}, key=type_order)
    return {kind: _lists([row for row in rows if (row.get("prompt_type") or "") == kind]) for kind in types}


def stacked(lists: Mapping[str, RewardLists]) -> tuple[RewardLists, list[str]]:
    """The lists of all prompt types (at least one) under each other, padded alike; and the type of each list."""
    width = max(one.rewards.shape[1] for one in lists.values())

    def together(name: str, fill: float | int) -> np.ndarray:
        parts = [getattr(one, name) for one in lists.values()]
        pads = [((0, 0), *[(0, width - part.shape[1])] * (part.ndim - 1)) for part in parts]
        return np.concatenate([np.pad(part, pad, constant_values=fill) for part, pad in zip(parts, pads, strict=True)])

    fills = {
        "rewards": 0.0,
        "ranks": 0,
        "mask": False,
        "better": False,
        "best": np.nan,
        "gold": np.nan,
        "lengths": np.nan,
    }
    whole = RewardLists(**{name: together(name, fill) for name, fill in fills.items()})
    return whole, [kind for kind, one in lists.items() for _ in one.rewards]


def type_order(kind: str) -> tuple[int, str]:
    """Sort key of prompt types: open, closed, then the others by name, unknown last."""
    known = {"open": 0, "closed": 1, "": 3}
    return known.get(kind, 2), kind


def _read_rewards(path: Path) -> list[Row]:
    rows = read_jsonl(path)
    check_fields(path, rows, _REQUIRED, _OPTIONAL)
    return rows


def _is_score(value: Any) -> bool:
    return is_number(value) or value in ("nan", "inf", "-inf")  # as metrics spell what JSON has no number for


# Of the rows of any file of rewards. A place beyond the list's last row is of a row that is not there, and no matter.
COMPARED: Fields = {
    "better_than": (
        lambda value: isinstance(value, list) and all(is_whole(place) and place >= 0 for place in value),
        "a list of whole numbers from 0",
    )
}
# Of the rows of rewards/STAGE.jsonl.
_REQUIRED: Fields = {
    "list": (lambda value: isinstance(value, str) or is_whole(value), "a whole number or a text"),
    "rank": (lambda value: is_whole(value) and 0 <= value < 10**6, "a whole number from 0 to 999999"),
    "reward": (_is_score, "a number"),
}
_OPTIONAL: Fields = {
    "prompt_type": (is_text, "a text"),
    "gold": (_is_score, "a number"),
    "best": (_is_score, "a number"),
    "length": (is_number, "a number"),
    **COMPARED,
    "step": (is_whole, "a whole number"),
    "split": (lambda value: isinstance(value, str), "a text"),
}


# Of the rows of samples/STAGE/STEP.jsonl.
_SAMPLED: Fields = {
    "proxy": (_is_score, "a number"),
    "gold": (_is_score, "a number"),
    "rewards": (
        lambda value: isinstance(value, list) and all(_is_part(part) for part in value),
        "a list of [start, end, reward]",
    ),
}


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(is_whole, value[:2])) and is_number(value[2])


def _lists(rows: list[Row]) -> RewardLists:
    lists: dict[Any, list[Row]] = {}
    for row in rows:
        lists.setdefault(row["list"], []).append(row)
    shape = (len(lists), max(map(len, lists.values())))
    rewards, ranks, mask = np.zeros(shape), np.zeros(shape, dtype=int), np.zeros(shape, dtype=bool)
    better = np.zeros((*shape, shape[1]), dtype=bool)
    best, gold, lengths = (np.full(shape, np.nan) for _ in range(3))
    for index, members in enumerate(lists.values()):
        size = len(members)
        rewards[index, :size] = [float(row["reward"]) for row in members]
        ranks[index, :size] = [row["rank"] for row in members]
        mask[index, :size] = np.isfinite(rewards[index, :size])
        if any(row.get("better_than") is not None for row in members):
            for place, row in enumerate(members):
                better[index, place, [worse for worse in row.get("better_than") or () if worse < size]] = True
        else:
            better[index, :size, :size] = ranks[index, :size, None] < ranks[index, None, :size]
        for values, name in ((best, "best"), (gold, "gold"), (lengths, "length")):
            known = [row.get(name) for row in members]
            values[index, :size] = [np.nan if value is None else float(value) for value in known]
    return RewardLists(rewards, ranks, mask, better, best, gold, lengths)


def _samples(directory: Path) -> dict[int, list[Row]]:
    found = {}
    for path in sorted((path for path in directory.glob("*.jsonl") if path.stem.isdigit()), key=lambda p: int(p.stem)):
        rows = read_jsonl(path)
        check_fields(path, rows, {}, _SAMPLED)
        found[int(path.stem)] = rows
    return found


def _in_order(found: dict[str, Value], order: list[str]) -> dict[str, Value]:
    place = {stage: index for index, stage in enumerate(order)}
    return {stage: found[stage] for stage in sorted(found, key=lambda stage: (place.get(stage, len(place)), stage))}
