"""A plot for a paper, drawn by matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf_jax.console import shorten
from rlhf_jax.reports.plot import Band, Bars, Dots, Histogram, Level, Line, Mark, Note, Panel, Plot
from rlhf_jax.reports.style import INK, THEMES, figure_style, panels, to_bytes

_DASHES = {"solid": "-", "dash": "--", "dot": ":"}


def paper(plot: Plot, *forms: str) -> list[bytes]:
    """The plot as a file of each of some ``style.FORMATS``; the same bytes each time."""
    with figure_style():
        return to_bytes(draw(plot), *forms)


def draw(plot: Plot) -> Figure:
    """The plot as a figure of matplotlib, one pair of axes a panel; more places than panels are left blank."""
    columns = min(plot.columns, len(plot.panels))
    width = 7.0 if columns == 1 else 10.0 if columns == 2 else 13.0
    figure, axes = panels(-(-len(plot.panels) // columns), columns, height=plot.height, width=width)
    for axis, panel in zip(axes, plot.panels, strict=False):
        _draw_panel(axis, panel)
    for axis in axes[len(plot.panels) :]:
        axis.set_axis_off()
    return figure


def _draw_panel(axis: Axes, panel: Panel) -> None:
    for mark in panel.marks:
        _draw_mark(axis, mark)
    axis.set_title(shorten(panel.title, 60))
    axis.set_xlabel(shorten(panel.x, 60))
    axis.set_ylabel(shorten(panel.y, 44))
    if panel.x_ticks is None:
        axis.xaxis.set_major_locator(MaxNLocator(9 if panel.whole_x else 6, integer=panel.whole_x))
    else:
        axis.set_xticks(*_ticks(panel.x_ticks))
    if panel.y_ticks is not None:
        axis.set_yticks(*_ticks(panel.y_ticks))
    if panel.x_range or panel.x_zero:
        axis.set_xlim(*(panel.x_range or _with_zero(axis.get_xlim())))
    if panel.y_range or panel.y_zero:
        axis.set_ylim(*(panel.y_range or _with_zero(axis.get_ylim())))
    if panel.legend and axis.get_legend_handles_labels()[1]:
        axis.legend()


def _with_zero(limits: tuple[float, float]) -> tuple[float, float]:
    return min(limits[0], 0.0), max(limits[1], 0.0)


def _ticks(ticks: Sequence[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [place for place, _ in ticks], [shorten(words, 40) for _, words in ticks]


def _draw_mark(axis: Axes, mark: Mark) -> None:
    look: dict[str, Any]
    match mark:
        case Line():
            axis.plot(
                mark.x,
                mark.y,
                color=_colour(mark.colour),
                linestyle=_DASHES[mark.dash],
                linewidth=mark.width,
                alpha=mark.opacity,
                marker="o" if mark.dots else None,
                drawstyle="steps-post" if mark.stairs else None,
                label=_label(mark.label),
            )
        case Band():
            x = np.asarray(mark.x, float)
            axis.fill_between(x, mark.low, mark.high, color=_colour(mark.colour), alpha=mark.opacity, linewidth=0)
        case Bars():
            look = {"width": mark.width, "color": _colour(mark.colour), "alpha": mark.opacity}
            axis.bar(mark.x, mark.heights, label=_label(mark.label), **look)
            for place, note in zip(mark.x, mark.notes, strict=False):
                axis.annotate(note, (place, 0.02), ha="center", fontsize=8)
        case Histogram():
            colour = _colour(mark.colour)
            axis.stairs(mark.heights, mark.edges, fill=True, color=colour, alpha=0.25)
            axis.stairs(mark.heights, mark.edges, color=colour, linewidth=1.6, label=_label(mark.label))
        case Dots():
            colours = [_colour(one) for one in mark.colours] or _colour(mark.colour)
            if len(mark.low):
                lines = axis.hlines if mark.across else axis.vlines
                lines(mark.y if mark.across else mark.x, mark.low, mark.high, colors=colours, linewidth=1.6)
            look = {"s": mark.sizes, "c": colours, "alpha": mark.opacity, "linewidth": 0, "zorder": 3}
            axis.scatter(mark.x, mark.y, label=_label(mark.label), **look)
        case Level():
            look = {"color": _colour(mark.colour), "linestyle": _DASHES[mark.dash], "linewidth": 1}
            (axis.axvline if mark.upright else axis.axhline)(mark.at, label=_label(mark.label), **look)
        case Note():
            axis.annotate(
                shorten(mark.text, 60), (mark.x, mark.y), xytext=(4, 3), textcoords="offset points", fontsize=8.5
            )


def _colour(colour: str) -> str:
    return {"ink": INK, "grid": THEMES["light"]["grid"]}.get(colour, colour)


def _label(text: str) -> str | None:
    # matplotlib leaves out what begins with "_".
    clean = shorten(text, 44)
    return clean.replace("_", "\u2009_", 1) if clean.startswith("_") else clean or None
