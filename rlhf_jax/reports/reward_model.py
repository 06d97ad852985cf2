"""How far a reward model can be trusted, from the records of a run: order, calibration, length, robustness.

A reading is what ``diagnostics.measure_reward_model`` found, as plain values: worked out here from the rewards of a
stage, or read from ``evaluation/NAME.json``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhf_jax.diagnostics.reward_model import as_plain, measure_reward_model
from rlhf_jax.reports.plot import Bars, Dots, Level, Line, Mark, Note, Panel, Plot
from rlhf_jax.reports.records import RewardLists, Run, stacked
from rlhf_jax.reports.style import NEUTRAL, OTHER_COLOURS, PROXY

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


def trust_plot(name: str, readings: Mapping[str, Reading]) -> Plot | None:
    """Reliability diagram, accuracy by rank distance, length bias; a row of panels for each reading."""
    panels = [
        panel
        for title, reading in readings.items()
        for panel in (_reliability_panel(title, reading), _distance_panel(reading), _length_panel(reading))
    ]
    return Plot(name, panels, columns=3) if panels else None


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


def _reliability_panel(name: str, reading: Reading) -> Panel:
    marks: list[Mark] = [Line([0.5, 1.0], [0.5, 1.0], colour=NEUTRAL, dash="dash", width=1.0)]
    lowest = 0.5
    for key, colour in (("raw", "ink"), ("calibrated", PROXY)):
        found = reading[key]
        bins = found["reliability"]
        pairs = np.array(bins["pairs"], float)
        held = pairs > 0
        confidence, accuracy = (np.array(bins[part], float)[held] for part in ("confidence", "accuracy"))
        label = f"T = {shown(found['temperature'])}, ECE {shown(bins['ece'])}"
        told = [f"{int(count):,} pairs" for count in pairs[held]]
        marks.append(Line(confidence, accuracy, label, colour, width=1.0))
        marks.append(Dots(confidence, accuracy, colour=colour, sizes=8 + 80 * pairs[held] / pairs.sum(), texts=told))
        lowest = min(lowest, float(accuracy.min()))
    return Panel(
        f"{name}: reliability",
        "confidence in the predicted winner",
        "share predicted right",
        marks,
        x_range=(0.49, 1.01),
        y_range=(lowest - 0.03, 1.03),
    )


def _distance_panel(reading: Reading) -> Panel:
    distances = [int(distance) for distance in reading["by_distance"]]
    values = [one["accuracy"] for one in reading["by_distance"].values()]
    return Panel(
        "accuracy by rank distance",
        "difference of ranks (1 = neighbours)",
        "share of pairs in order",
        [Level(0.5, colour=NEUTRAL), Bars(distances, values, colour=OTHER_COLOURS[0])],
        x_range=(min(distances) - 1, max(distances) + 1),
        y_range=(0.0, 1.03),
        whole_x=True,
    )


def _length_panel(reading: Reading) -> Panel:
    marks: list[Mark] = [Level(0.5, colour=NEUTRAL)]
    title, found, ticks = "length bias", reading["length"], []
    if found is None:
        marks.append(Note(0.0, 0.55, "lengths are not recorded"))
    else:
        parts = [
            ("shorter", found["better_shorter"]),
            (f"within {100 * found['share']:.0f} %", found["matched"]),
            ("longer", found["better_longer"]),
        ]
        ticks = [(float(place), words) for place, (words, _) in enumerate(parts)]
        held = [(place, part) for place, (_, part) in enumerate(parts) if part is not None]
        marks.append(
            Bars(
                [place for place, _ in held],
                [part["accuracy"] for _, part in held],
                colour=OTHER_COLOURS[1],
                notes=[f"{part['pairs']:,}" for _, part in held],
            )
        )
        if found["correlation"] is not None:
            title += f": correlation {shown(found['correlation'])}".replace("-", "−")
    return Panel(
        title,
        "the better response is …",
        "share of pairs in order",
        marks,
        x_range=(-0.6, 2.6),
        y_range=(0.0, 1.03),
        x_ticks=ticks,
    )
