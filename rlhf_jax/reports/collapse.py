"""Reward collapse, from the records of a run."""

from collections.abc import Mapping
from typing import Any

from rlhf_jax.diagnostics import Collapse, coincide, measure_collapse
from rlhf_jax.reports.records import RewardLists, Run, stacked


def collapse_of(lists: Mapping[str, RewardLists], optimum: Mapping[str, Any]) -> Collapse:
    """What the lists of each prompt type show, held against ``optimum/STAGE.json`` (empty: what it says is unknown)."""
    if not lists:
        return Collapse({}, [], None)
    whole, types = stacked(lists)
    return measure_collapse(
        whole.rewards,
        whole.ranks,
        whole.mask,
        types,
        best=whole.best,
        apart={
            (kind, other): float(w1)
            for kind, record in optimum.items()
            for other, w1 in record.get("apart", {}).items()
            if kind < other
        },
        gold=whole.gold,
    )


def collapse_warnings(run: Run) -> list[str]:
    """The warnings of the last evaluation of each stage that scored lists."""
    return [
        f"{stage}: {line}"
        for stage, lists in run.rewards.items()
        for line in coincide(collapse_of(lists, run.optimum.get(stage, {})))
    ]
