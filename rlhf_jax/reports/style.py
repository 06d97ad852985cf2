"""The look of the figures, and how one becomes SVG for the page or PNG for a paper.

Figures are made by matplotlib's object interface, without pyplot and its global state.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#24292f"
GRID = "#c9ced6"
NEUTRAL = "#7a828c"
PROXY = "#7d5bbe"
TYPE_COLOURS = {"open": "#2a78b8", "closed": "#d9772b", "": NEUTRAL}
OTHER_COLOURS = ("#3f9b6c", "#b8517a", "#8c7a2e", "#4aa3a8")

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.edgecolor": NEUTRAL,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": NEUTRAL,
    "ytick.color": NEUTRAL,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    # Names come from users' files: a "$" in one is a dollar.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "rlhf_jax",
}


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Draw inside this: the house style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def panels(rows: int, columns: int, *, height: float = 3.0, width: float = 10.0) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels, row after row; sizes in inches, ``height`` of one row."""
    figure = Figure(figsize=(width, height * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, list(grid.flat)


def colour_of(prompt_type: str, place: int = 0) -> str:
    """The colour of a prompt type, the same in every figure; ``place`` chooses for types of the user's own."""
    return TYPE_COLOURS.get(prompt_type, OTHER_COLOURS[place % len(OTHER_COLOURS)])


def to_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element on no background, in the page's own text colour; the same bytes each time."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Several figures share one page, and these ids are numbered per figure. Nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return svg.replace(INK, "currentColor").replace(GRID, "var(--line)")


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG on white, 160 dots per inch; the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
