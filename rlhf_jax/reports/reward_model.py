"""How far a reward model can be trusted, from the records of a run: order, calibration, length, robustness.

A reading is what ``diagnostics.measure_reward_model`` found, as plain values: worked out here from the rewards of a
stage, or read from ``evaluation/NAME.json``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf_jax.console import shorten
from rlhf_jax.diagnostics.reward_model import as_plain, measure_reward_model
from rlhf_jax.reports.records import RewardLists, Run, stacked
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, PROXY, panels

Reading = Mapping[str, Any]


def reading_of(lists: Mapping[str, RewardLists], temperature: float = 1.0) -> dict[str, Any]:
    """The reading of lists by prompt type, of which there is at least one."""
    whole, types = stacked(lists)
    found = measure_reward_model(
        whole.rewards,
        whole.ranks,
        whole.mask,
        types,
        better=whole.better,
        lengths=whole.lengths,
        temperature=temperature,
    )
    return as_plain(found)


def stage_readings(run: Run) -> dict[str, Reading]:
    """The last held-out evaluation of each reward stage that compared anything."""
    readings = {stage: reading_of(lists) for stage, lists in run.rewards.items() if lists}
    return {stage: reading for stage, reading in readings.items() if reading["pairs"]}


def evaluation_readings(run: Run) -> dict[str, Reading]:
    """What ``rlhf-jax evaluate`` left in the directory, where it compared anything."""
    return {name: reading for name, reading in run.evaluations.items() if reading.get("pairs")}


def reading_table(readings: Mapping[str, Reading]) -> list[dict[str, str]]:
    """One row a reading, every value as text."""
    return [
        {
            "name": name,
            "pairs": f"{reading['pairs']:,}",
            "accuracy": shown(reading["accuracy"]),
            "tau": shown(reading["kendall_tau"]),
            "ndcg": shown(reading["ndcg"]),
            "log_loss": shown(_at(reading, "raw", "log_loss")),
            "ece": shown(_at(reading, "raw", "reliability", "ece")),
            "temperature": shown(_at(reading, "calibrated", "temperature")),
            "log_loss_calibrated": shown(_at(reading, "calibrated", "log_loss")),
            "ece_calibrated": shown(_at(reading, "calibrated", "reliability", "ece")),
            "correlation": shown(_at(reading, "length", "correlation")),
            "longer_wins": shown(_at(reading, "length", "longer_wins")),
            "longer_is_better": shown(_at(reading, "length", "longer_is_better")),
        }
        for name, reading in readings.items()
    ]


def robustness_table(readings: Mapping[str, Reading]) -> list[dict[str, str]]:
    """One row a reading and change of the texts."""
    return [
        {"name": name, "change": change, **{key: shown(found.get(key)) for key in ("shift", "drift", "flips")}}
        for name, reading in readings.items()
        for change, found in (reading.get("robustness") or {}).items()
    ]


def rewardbench_table(readings: Mapping[str, Reading]) -> list[dict[str, str]]:
    """The benchmark's scores: the whole, sections, subsets."""
    rows = []
    for name, reading in readings.items():
        found = reading.get("rewardbench")
        if found:
            rows.append({"name": name, "part": f"RewardBench {found['version']}", "score": shown(found["overall"])})
            for part, scores in (("section", found["sections"]), ("subset", found["subsets"])):
                rows += [{"name": "", "part": f"{part} {key}", "score": shown(score)} for key, score in scores.items()]
    return rows


def draw_readings(readings: Mapping[str, Reading]) -> Figure:
    """Reliability diagram, accuracy by rank distance, length bias; a row of panels each, at least one reading."""
    figure, axes = panels(len(readings), 3)
    for row, (name, reading) in enumerate(readings.items()):
        _draw_reliability(axes[3 * row], name, reading)
        _draw_distances(axes[3 * row + 1], reading)
        _draw_length(axes[3 * row + 2], reading)
    return figure


def shown(value: float | None) -> str:
    """Three decimals, or three digits where that says nothing; a dash for what is not known."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def _at(reading: Reading, *keys: str) -> Any:
    value: Any = reading
    for key in keys:
        value = None if value is None else value.get(key)
    return value


def _draw_reliability(axis: Axes, name: str, reading: Reading) -> None:
    axis.plot([0.5, 1], [0.5, 1], color=NEUTRAL, linewidth=1, linestyle="--")
    lowest = 0.5
    for key, colour in (("raw", INK), ("calibrated", PROXY)):
        found = reading[key]
        bins = found["reliability"]
        pairs = np.array(bins["pairs"], float)
        held = pairs > 0
        confidence, accuracy = (np.array(bins[part], float)[held] for part in ("confidence", "accuracy"))
        label = f"T = {shown(found['temperature'])}, ECE {shown(bins['ece'])}"
        axis.plot(confidence, accuracy, color=colour, linewidth=1, label=label)
        axis.scatter(confidence, accuracy, s=8 + 80 * pairs[held] / pairs.sum(), color=colour, alpha=0.7, linewidth=0)
        lowest = min(lowest, accuracy.min())
    axis.set_xlim(0.49, 1.01)
    axis.set_ylim(lowest - 0.03, 1.03)
    _dress(axis, f"{name}: reliability", "confidence in the predicted winner", "share of winners predicted right")
    axis.legend(loc="best")


def _draw_distances(axis: Axes, reading: Reading) -> None:
    distances = [int(distance) for distance in reading["by_distance"]]
    values = [one["accuracy"] for one in reading["by_distance"].values()]
    axis.bar(distances, values, color=OTHER_COLOURS[0], alpha=0.75, width=0.7)
    axis.axhline(0.5, color=NEUTRAL, linewidth=1, linestyle="--")
    axis.set_ylim(0, 1.03)
    axis.set_xlim(min(distances) - 1, max(distances) + 1)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _dress(axis, "accuracy by rank distance", "difference of ranks (1 = neighbours)", "share of pairs in order")


def _draw_length(axis: Axes, reading: Reading) -> None:
    axis.axhline(0.5, color=NEUTRAL, linewidth=1, linestyle="--")
    axis.set_ylim(0, 1.03)
    title, found = "length bias", reading["length"]
    if found is None:
        axis.annotate("lengths are not recorded", (0.5, 0.55), xycoords="axes fraction", ha="center", color=INK)
        axis.set_xticks([])
    else:
        parts = [
            ("shorter", found["better_shorter"]),
            (f"within {100 * found['share']:.0f} %", found["matched"]),
            ("longer", found["better_longer"]),
        ]
        for place, (_, part) in enumerate(parts):
            if part is not None:
                axis.bar(place, part["accuracy"], color=OTHER_COLOURS[1], alpha=0.75, width=0.7)
                axis.annotate(f"{part['pairs']:,}", (place, 0.02), ha="center", color=INK, fontsize=8)
        axis.set_xticks(range(len(parts)), [name for name, _ in parts])
        if found["correlation"] is not None:
            title += f": correlation {shown(found['correlation'])}".replace("-", "−")
    _dress(axis, title, "the better response is …", "share of pairs in order")


def _dress(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(shorten(title, 44))
    axis.set_xlabel(x)
    axis.set_ylabel(y)
