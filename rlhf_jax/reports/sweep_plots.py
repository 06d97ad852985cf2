"""The figures of a sweep: intervals over seeds, parallel coordinates, importance, one objective against another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float

from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.reports.curves import thinned
from rlhf_jax.reports.differences import value_text
from rlhf_jax.reports.headline import number
from rlhf_jax.reports.importance import is_logarithmic, numeric
from rlhf_jax.reports.plot import Band, Bars, Dots, Level, Line, Mark, Note, Panel, Plot
from rlhf_jax.reports.records import Row, series
from rlhf_jax.reports.style import NEUTRAL, OTHER_COLOURS, TYPE_COLOURS, run_colour
from rlhf_jax.reports.trials import Sweep, mean_and_half_width

SHOWN_POINTS = 40  # of an interval plot, the best ones
NAMED = 12  # of more points than these a scatter names none
LABEL = 44  # characters of a point's parameters in a legend
CURVES = 8  # points whose curves are drawn, the best ones


def intervals_plot(sweep: Sweep) -> Plot | None:
    """Of each objective the points, best on top: mean with its 95 % interval over seeds, and each trial."""
    panels, labels = [], labels_of(sweep)
    most = 1
    for objective in sweep.objectives:
        points = [p for p in sweep.ranked(objective) if p.values(objective.metric).size][:SHOWN_POINTS]
        if not points:
            continue
        most = max(most, len(points))
        heights = [float(-place) for place in range(len(points))]
        found = [mean_and_half_width(point.values(objective.metric)) for point in points]
        means = np.array([mean for mean, _ in found])
        halves = np.array([half or 0.0 for _, half in found])
        seeds = [(v, h) for p, h in zip(points, heights, strict=True) for v in p.values(objective.metric)]
        told = [
            f"{labels[p.name]}: {number(m)}" + (f" ± {number(h)}" if h else "")
            for p, (m, h) in zip(points, found, strict=True)
        ]
        dots = Dots([v for v, _ in seeds], [h for _, h in seeds], "each seed", NEUTRAL, sizes=(16.0,), opacity=0.7)
        mean = Dots(
            means, heights, "mean, 95 % interval", TYPE_COLOURS["open"], sizes=(46.0,), low=means - halves,
            high=means + halves, across=True, texts=told,
        )  # fmt: skip
        ticks = [(height, labels[point.name]) for point, height in zip(points, heights, strict=True)]
        title = objective.metric
        limits = (heights[-1] - 0.7, 0.7)
        panels.append(Panel(title, objective.metric, "", [dots, mean], y_range=limits, y_ticks=ticks))
    return Plot("intervals", panels, columns=1, height=max(2.4, 1.3 + 0.27 * most)) if panels else None


def parallel_plot(sweep: Sweep) -> Plot | None:
    """One line a point through its parameters and its mean of each objective; bright where the first is good."""
    first = sweep.objectives[0]
    points = [point for point in sweep.points if point.values(first.metric).size]
    axes: list[tuple[str, list[Any]]] = []
    for name in sweep.parameters:
        values = [point.parameters.get(name) for point in points]
        if len({repr(value) for value in values}) > 1:
            axes.append((name, values))
    if not axes or len(points) < 2:
        return None
    for objective in sweep.objectives:
        found = [point.values(objective.metric) for point in points]
        axes.append((objective.metric, [float(values.mean()) if values.size else None for values in found]))
    goodness = np.array([first.better(float(point.values(first.metric).mean()), 0.0) for point in points])
    marks: list[Mark] = [Level(float(place), colour="grid", dash="solid", upright=True) for place in range(len(axes))]
    placed = [place_on_axis(values) for _, values in axes]
    shades = colours_of(goodness)
    for row in np.argsort(goodness, kind="stable"):  # the best are drawn last
        heights = [heights[row] for heights, _ in placed]
        words = "; ".join(f"{name} {_shown(values[row])}" for name, values in axes)
        text = f"{points[row].name}: {words}"
        line = Line(
            list(range(len(axes))), heights, colour=shades[row], dots=True, opacity=0.85, texts=[text] * len(axes)
        )
        marks.append(line)
    for place, (_, ends) in enumerate(placed):
        marks += [Note(float(place), height, words) for height, words in ends]
    panel = Panel(
        "",
        "",
        "",
        marks,
        x_range=(-0.15, len(axes) - 1 + 0.45),
        y_range=(-0.08, 1.1),
        x_ticks=[(float(place), name) for place, (name, _) in enumerate(axes)],
        y_ticks=[],
        pick_out=True,
    )
    return Plot("parallel", [panel], columns=1, height=4.2)


def importance_plot(found: Mapping[str, Mapping[str, float]]) -> Plot | None:
    """Objective → parameter → share of the variance, as bars."""
    panels = []
    for place, (metric, shares) in enumerate(found.items()):
        if shares:
            ticks = [(float(at), name) for at, name in enumerate(shares)]
            bars = Bars(list(range(len(shares))), list(shares.values()), colour=OTHER_COLOURS[place % 4], width=0.6)
            limits = (-0.6, max(len(shares), 3) - 0.4)
            panels.append(
                Panel(metric, "", "share of the variance", [bars], x_range=limits, y_range=(0.0, 1.0), x_ticks=ticks)
            )
    return Plot("importance", panels, columns=2) if panels else None


def trade_plot(sweep: Sweep, x: str, y: str, title: str, x_label: str, root: bool = False) -> Plot | None:
    """Each point's mean of one figure against another (``root``: against its square root), seeds small."""
    marks: list[Mark] = []
    labels = labels_of(sweep)
    points = [point for point in sweep.points if point.values(x).size and point.values(y).size]
    if len(points) < 2:
        return None
    for place, point in enumerate(points):
        pairs = np.array([(t.value(x), t.value(y)) for t in point.trials], float)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if root:
            pairs[:, 0] = np.sqrt(np.maximum(pairs[:, 0], 0.0))
        colour = run_colour(place)
        middle = pairs.mean(axis=0)
        told = [f"{labels[point.name]}: {number(middle[0])}, {number(middle[1])}"]
        if len(pairs) > 1:
            marks.append(Dots(pairs[:, 0], pairs[:, 1], colour=colour, sizes=(14.0,), opacity=0.5))
        name = labels[point.name] if len(points) <= NAMED else ""
        marks.append(Dots(middle[:1], middle[1:], name, colour, sizes=(60.0,), texts=told))
    panel = Panel(title, x_label, y, marks)
    return Plot("frontier" if root else "objectives", [panel], columns=1, height=3.6)


def curves_plot(sweep: Sweep, objective: Objective, rows: Mapping[str, Sequence[Row]]) -> Plot | None:
    """Of the best points the objective over the steps: mean over the trials, and the range between them.

    ``rows`` of ``metrics.jsonl`` are by the name of the trial: held-out ones where there are any, else of training.
    """
    stage, _, name = objective.metric.partition(".")
    marks: list[Mark] = []
    labels = labels_of(sweep)
    for place, point in enumerate(sweep.ranked(objective)[:CURVES]):
        curves = [
            found for trial in point.trials if len((found := _series(rows.get(trial.name, ()), stage, name))[0]) > 1
        ]
        if not curves:
            continue
        steps, values = _together(curves)
        colour = run_colour(place)
        x, y = thinned(steps, values.mean(axis=0))
        if len(curves) > 1:
            marks.append(Band(steps, values.min(axis=0), values.max(axis=0), colour))
        marks.append(Line(x, y, labels[point.name], colour, dots=len(x) < 30))
    if not marks:
        return None
    panel = Panel("", "step", objective.metric, marks, whole_x=True)
    return Plot("curves", [panel], columns=1, height=3.8)


def labels_of(sweep: Sweep) -> dict[str, str]:
    """What points are called in figures, by name: their parameters by the last word of their keys where that is short
    and tells all of them apart, else their own names.
    """
    labels = {}
    for point in sweep.points:
        words = (f"{name.rpartition('.')[2]} {_shown(value)}" for name, value in point.parameters.items())
        labels[point.name] = ", ".join(words)
    short = all(0 < len(label) <= LABEL for label in labels.values())
    named = bool(sweep.record)  # an experiment has given its points names
    return labels if named and short and len(set(labels.values())) == len(labels) else {name: name for name in labels}


def place_on_axis(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of values on an axis of their own, NaN for None, and (height, words) of its marks.

    Numbers keep their distances, or those of their logarithms where they spread far; of anything else each different
    value has a place.
    """
    known = [value for value in values if value is not None]
    if numeric(known):
        scale = math.log if is_logarithmic(known) else float
        low, high = scale(min(known)), scale(max(known))
        span = (high - low) or 1.0
        heights = [math.nan if value is None else (scale(value) - low) / span for value in values]
        return heights, [(0.0, _shown(min(known))), (1.0, _shown(max(known)))]
    kinds = sorted({value_text(value) for value in known})
    places = {kind: place / max(len(kinds) - 1, 1) for place, kind in enumerate(kinds)}
    heights = [math.nan if value is None else places[value_text(value)] for value in values]
    return heights, [(height, kind) for kind, height in places.items()]


def colours_of(values: Float[np.ndarray, "N"]) -> list[str]:
    """A colour for each value, from dull to bright as it grows; told apart on white and on black."""
    low, high = values.min(), values.max()
    shares = (values - low) / ((high - low) or 1.0)
    table = matplotlib.colormaps["plasma"]
    return [matplotlib.colors.to_hex(table(0.25 + 0.6 * share)) for share in shares]


def _series(rows: Sequence[Row], stage: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    steps, values = series(rows, stage, f"validation.{name}")
    return (steps, values) if len(steps) > 1 else series(rows, stage, name)


def _together(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, Float[np.ndarray, "T S"]]:
    """Trials on the steps that all of them have; those of the first, interpolated, where they share none."""
    steps = found[0][0]
    for other, _ in found[1:]:
        steps = np.intersect1d(steps, other)
    if not len(steps):
        steps = found[0][0]
    return steps, np.stack([np.interp(steps, own, values) for own, values in found])


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)
