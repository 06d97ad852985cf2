"""One description, two drawings: both show its numbers, and plotly's own schema takes what is made for it."""

import json

import numpy as np
import pytest
from plotly import graph_objects

from rlhf_jax.reports.plot import Band, Bars, Dots, Histogram, Level, Line, Note, Panel, Plot
from rlhf_jax.reports.plot_paper import draw, paper
from rlhf_jax.reports.plot_web import web

X = np.array([0.0, 1.0, 2.0])
Y = np.array([1.0, np.nan, 3.0])
MARKS = (
    Line(X, Y, "line", "#2a78b8", dash="dash", dots=True, texts=["a", "b <b>", "c"]),
    Line(X, X, stairs=True),
    Band(X, X - 1, X + 1, "#2a78b8"),
    Bars([0, 1], [0.25, 0.5], "bars", notes=["one", "two"]),
    Histogram(np.array([0.0, 0.5, 1.0]), np.array([0.25, 0.75]), "histogram", "#2a78b8"),
    Dots(X, X, "dots", low=X - 1, high=X + 2, sizes=np.array([4.0, 9.0, 16.0])),
    Dots(X, X, colours=("#111111", "#222222", "#333333"), low=X - 1, high=X + 2, across=True),
    Level(0.5, "level"),
    Level(1.5, upright=True),
    Note(1.0, 2.0, "note"),
)


def panel(*marks, **settings):
    return Panel("title", "x axis", "y axis", marks, **settings)


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: type(mark).__name__)
def test_plotly_takes_it_and_json_can_write_it(mark):
    """graph_objects raises on any property or value that plotly does not know."""
    found = web(panel(mark, x_range=(0, 3.5), y_zero=True, y_ticks=[(0.0, "zero")]))
    written = json.dumps(found, allow_nan=False)
    assert json.loads(written) == found
    graph_objects.Figure(json.loads(written, object_hook=coloured))


def coloured(part):
    """As the page's script does it."""
    return {
        key: "#24292f" if key in ("color", "fillcolor") and value == "ink" else value for key, value in part.items()
    }


def test_both_drawings_show_the_numbers():
    line, dots = MARKS[0], MARKS[5]
    trace, points = web(panel(line, dots))["data"]
    assert (trace["x"], trace["y"], trace["name"]) == ([0.0, 1.0, 2.0], [1.0, None, 3.0], "line")
    assert points["error_y"]["array"] == [2.0, 2.0, 2.0]
    assert points["error_y"]["arrayminus"] == [1.0, 1.0, 1.0]
    (axes,) = draw(Plot("a", [panel(line, dots)])).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), Y)
    segments = [np.asarray(segment).tolist() for segment in axes.collections[0].get_segments()]
    assert segments == [[[x, x - 1], [x, x + 2]] for x in X]


def test_a_histogram_and_a_band_are_closed_outlines():
    bins, band = web(panel(MARKS[4]))["data"][0], web(panel(MARKS[2]))["data"][0]
    corners = list(zip(bins["x"], bins["y"], strict=True))
    assert corners == [(0, 0), (0, 0.25), (0.5, 0.25), (0.5, 0.75), (1, 0.75), (1, 0)]
    assert list(zip(band["x"], band["y"], strict=True)) == [(0, -1), (1, 0), (2, 1), (2, 3), (1, 2), (0, 1)]


def test_text_is_text_in_both_drawings():
    bad = "<b>$x$</b> &amp; %{y}\u202e"
    found = web(Panel(bad, bad, bad, [Line(X, X, bad, texts=[bad] * 3), Note(0.0, 0.0, bad)], x_ticks=[(0.0, bad)]))
    safe = "&lt;b&gt;$x$&lt;/b&gt; &amp;amp; %{y}"
    assert found["data"][0]["name"] == safe
    assert found["data"][0]["text"] == [safe] * 3
    assert found["data"][0]["hovertemplate"] == "%{text}<extra></extra>"  # no name of a user's in a template
    assert found["layout"]["xaxis"]["title"]["text"] == found["layout"]["xaxis"]["ticktext"][0] == safe
    assert found["layout"]["annotations"][0]["text"] == safe
    figure = draw(Plot("a", [Panel(bad, bad, bad, [Line(X, X, f"_{bad}")])]))
    assert figure.axes[0].get_title(loc="left") == "" or "$" in figure.axes[0].get_title(loc="left")
    paper(Plot("a", [Panel(bad, bad, bad, [Line(X, X, f"_{bad}")])]), "svg")


def test_a_label_stands_in_the_legend_and_no_label_in_none():
    found = web(panel(Line(X, X), Level(0.5, "level"), Level(0.7)))
    assert [(trace["name"], trace["showlegend"]) for trace in found["data"]] == [("", False), ("level", True)]
    assert found["layout"]["showlegend"]
    assert len(found["layout"]["shapes"]) == 2
    assert not web(panel(Line(X, X)))["layout"]["showlegend"]
