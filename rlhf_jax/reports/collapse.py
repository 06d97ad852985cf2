"""Reward collapse, from the records of a run."""

from collections.abc import Mapping
from typing import Any

from rlhf_jax.diagnostics import Collapse, coincide, distances, measure_collapse
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


def collapse_findings(run: Run) -> tuple[list[str], dict[str, list[str]]]:
    """Of the last evaluation of each stage that scored lists, the warnings, and by stage how far apart types lie."""
    found = {stage: collapse_of(lists, run.optimum.get(stage, {})) for stage, lists in run.rewards.items()}
    warnings = [f"{stage}: {line}" for stage, one in found.items() for line in coincide(one)]
    return warnings, {stage: distances(one) for stage, one in found.items()}
