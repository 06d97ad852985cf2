"""A plot for the page: a plain dictionary for each panel, which plotly's script draws.

plotly reads some HTML in texts, so that theirs is escaped here; "ink" and "grid" are put in by the page's own script.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlhf_jax.console import shorten
from rlhf_jax.reports.plot import Band, Bars, Dots, Histogram, Level, Line, Mark, Note, Panel, Range

Trace = dict[str, Any]


def web(panel: Panel) -> dict[str, Any]:
    """``{"data": [...], "layout": {...}}`` of one panel, in plain values that JSON can write."""
    traces: list[Trace] = []
    layout: dict[str, Any] = {
        "xaxis": _axis(panel.x, panel.x_range, panel.x_zero, panel.x_ticks),
        "yaxis": _axis(panel.y, panel.y_range, panel.y_zero, panel.y_ticks),
        "shapes": [],
        "annotations": [],
    }
    if panel.whole_x and _reach(panel) < 12:  # of more, plotly's own ticks are whole numbers
        layout["xaxis"] |= {"dtick": 1}
    for mark in panel.marks:
        if isinstance(mark, Level):
            layout["shapes"].append(_shape(mark))
        if isinstance(mark, Note):
            layout["annotations"].append(_annotation(mark.x, mark.y, mark.text, xanchor="left", yanchor="bottom"))
        else:
            traces += _traces(mark)
        if isinstance(mark, Bars):
            for x, words in zip(mark.x, mark.notes, strict=False):
                layout["annotations"].append(_annotation(float(x), 0.0, words, xanchor="center", yanchor="bottom"))
    layout["showlegend"] = panel.legend and any(trace.get("showlegend") for trace in traces)
    layout["meta"] = {"pick_out": panel.pick_out}
    return {"data": traces, "layout": layout}


def _traces(mark: Mark) -> Iterable[Trace]:
    match mark:
        case Line():
            x, y = (mark.x, mark.y) if len(mark.x) else ([None], [None])  # a legend leaves out what has no points
            trace = _scatter(x, y, mark.label, "lines+markers" if mark.dots else "lines", mark.texts)
            trace |= {
                "line": {"color": mark.colour, "width": mark.width, "dash": mark.dash},
                "opacity": mark.opacity,
                "connectgaps": False,
            }
            if mark.stairs:
                trace["line"]["shape"] = "hv"
            if mark.dots:
                trace["marker"] = {"color": mark.colour, "size": 6}
            yield trace
        case Band():
            around = np.concatenate([np.asarray(mark.x, float), np.asarray(mark.x, float)[::-1]])
            edge = np.concatenate([np.asarray(mark.low, float), np.asarray(mark.high, float)[::-1]])
            yield _scatter(around, edge, "", "lines") | {
                "fill": "toself",
                "fillcolor": mark.colour,
                "line": {"width": 0, "color": mark.colour},
                "opacity": mark.opacity,
                "hoverinfo": "skip",
            }
        case Bars():
            yield {
                "type": "bar",
                "x": _plain(mark.x),
                "y": _plain(mark.heights),
                "width": mark.width,
                "marker": {"color": mark.colour},
                "opacity": mark.opacity,
                **_named(mark.label),
            }
        case Histogram():
            edges, heights = np.asarray(mark.edges, float), np.asarray(mark.heights, float)
            x, y = np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])
            common = {"fillcolor": mark.colour, "hoverinfo": "skip"}
            yield _scatter(x, y, "", "lines") | common | {"fill": "toself", "line": {"width": 0}, "opacity": 0.25}
            yield _scatter(x, y, mark.label, "lines") | {"line": {"color": mark.colour, "width": 1.6}}
        case Dots():
            sizes = np.asarray(mark.sizes, float)
            diameters = 2 * np.sqrt(np.broadcast_to(sizes, np.shape(mark.x)) / math.pi) * 1.33  # points to pixels
            colours: Any = list(mark.colours) or mark.colour
            trace = _scatter(mark.x, mark.y, mark.label, "markers", mark.texts)
            trace |= {
                "marker": {"size": _plain(diameters), "color": colours, "opacity": mark.opacity, "line": {"width": 0}}
            }
            if len(mark.low):
                middle = np.asarray(mark.x if mark.across else mark.y, float)
                trace["error_x" if mark.across else "error_y"] = {
                    "type": "data",
                    "symmetric": False,
                    "array": _plain(np.asarray(mark.high, float) - middle),
                    "arrayminus": _plain(middle - np.asarray(mark.low, float)),
                    "color": mark.colour,
                    "thickness": 1.6,
                    "width": 0,
                }
            yield trace
        case Level() if mark.label:  # a shape stands in no legend of this kind: a line of no points does
            line = {"color": mark.colour, "width": 1, "dash": mark.dash}
            yield _scatter([None], [None], mark.label, "lines") | {"line": line}


def _scatter(x: Any, y: Any, label: str, mode: str, texts: Sequence[str] = ()) -> Trace:
    trace = {"type": "scatter", "mode": mode, "x": _plain(x), "y": _plain(y), **_named(label)}
    if len(texts):
        # One text each, and nothing in it is read as a template.
        trace |= {"text": [web_text(text, 400) for text in texts], "hovertemplate": "%{text}<extra></extra>"}
    return trace


def _named(label: str) -> dict[str, Any]:
    return {"name": web_text(label, 60), "showlegend": bool(label)}


def _axis(title: str, limits: Range | None, zero: bool, ticks: Sequence[tuple[float, str]] | None) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": web_text(title, 80)}}
    if limits:
        axis["range"] = [_number(limit) for limit in limits]
    elif zero:
        axis["rangemode"] = "tozero"
    if ticks is not None:
        axis |= {"tickvals": [_number(place) for place, _ in ticks], "ticktext": [web_text(t, 40) for _, t in ticks]}
    return axis


def _shape(level: Level) -> dict[str, Any]:
    own, other = ("x", "y") if level.upright else ("y", "x")
    place = {f"{own}0": level.at, f"{own}1": level.at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": f"{other} domain"}
    line = {"color": level.colour, "width": 1, "dash": level.dash}
    return {"type": "line", **place, "line": line, "layer": "below"}


def _annotation(x: float, y: float, text: str, **anchors: str) -> dict[str, Any]:
    font = {"size": 11}
    return {"x": _number(x), "y": _number(y), "text": web_text(text, 80), "showarrow": False, "font": font, **anchors}


def _reach(panel: Panel) -> float:
    xs = [np.asarray(mark.x, float) for mark in panel.marks if isinstance(mark, Line | Bars | Dots) and len(mark.x)]
    return float(max(map(np.nanmax, xs)) - min(map(np.nanmin, xs))) if xs else 0.0


def web_text(text: str, limit: int) -> str:
    """Clean text on one line of at most ``limit`` characters, with nothing in it that plotly takes for HTML."""
    return shorten(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(values: Any) -> list[float | int | None]:
    return [_number(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]


def _number(value: float | None) -> float | int | None:
    """Seven digits, which is what float32 has; None for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.7g}")
