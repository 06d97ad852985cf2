"""Reward collapse, from the records of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhf_jax.diagnostics import Collapse, coincide, measure_collapse
from rlhf_jax.reports.records import RewardLists, Run


def collapse_of(lists: Mapping[str, RewardLists], optimum: Mapping[str, Any]) -> Collapse:
    """What the lists of each prompt type show, held against ``optimum/STAGE.json`` (empty: what it says is unknown)."""
    if not lists:
        return Collapse({}, [], None)
    width = max(one.rewards.shape[1] for one in lists.values())

    def stacked(name: str, fill: float | int) -> np.ndarray:
        parts = [getattr(one, name) for one in lists.values()]
        return np.concatenate(
            [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts]
        )

    return measure_collapse(
        stacked("rewards", 0.0),
        stacked("ranks", 0),
        stacked("mask", False),
        [kind for kind, one in lists.items() for _ in one.rewards],
        best=stacked("best", np.nan),
        apart={
            (kind, other): float(w1)
            for kind, record in optimum.items()
            for other, w1 in record.get("apart", {}).items()
            if kind < other
        },
        gold=stacked("gold", np.nan),
    )


def collapse_warnings(run: Run) -> list[str]:
    """The warnings of the last evaluation of each stage that scored lists."""
    return [
        f"{stage}: {line}"
        for stage, lists in run.rewards.items()
        for line in coincide(collapse_of(lists, run.optimum.get(stage, {})))
    ]
