"""The colours of figures and pages, and how matplotlib draws for a paper.

Figures are made by matplotlib's object interface, without pyplot and its global state.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Of a page by day and by night. "ink" and "grid" are the two that figures follow, see ``plot``.
THEMES = {
    "light": {
        "ink": "#24292f", "soft": "#5d6672", "paper": "#ffffff", "card": "#f6f7f9", "grid": "#dcdfe4",
        "accent": "#1f6aa5", "good": "#2f8f5b", "bad": "#c0413b",
    },
    "dark": {
        "ink": "#e4e7eb", "soft": "#9aa4b0", "paper": "#15181c", "card": "#1d2126", "grid": "#343a42",
        "accent": "#6cb0e6", "good": "#5cc08a", "bad": "#ef7f79",
    },
}  # fmt: skip
INK = THEMES["light"]["ink"]
NEUTRAL = "#7a828c"
PROXY = "#7d5bbe"
TYPE_COLOURS = {"open": "#2a78b8", "closed": "#d9772b", "": NEUTRAL}
OTHER_COLOURS = ("#3f9b6c", "#b8517a", "#8c7a2e", "#4aa3a8")
FORMATS = ("pdf", "png", "svg")
# What would differ from one writing to the next, or name the program.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}
# Of runs that are compared: told apart on white and on black, and by most of the colour-blind.
RUN_COLOURS = (
    "#2a7fc4", "#d9772b", "#3f9b6c", "#c2527f", "#8e6bd0", "#9c8a2e", "#3fa3a8", "#c0504a", "#6d7f94", "#7fa33b",
)  # fmt: skip

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
    "grid.color": "#c9ced6",
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
    "pdf.fonttype": 42,  # fonts as journals ask for them
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


def run_colour(place: int) -> str:
    """The colour of the run at a place of a comparison."""
    return RUN_COLOURS[place % len(RUN_COLOURS)]


def to_bytes(figure: Figure, *forms: str) -> list[bytes]:
    """The figure as a file of each of some ``FORMATS``, on white, a PNG with 160 dots per inch; always the same bytes.

    Laid out once for all of them, which is what takes time.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    files = []
    for form in forms:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=160, facecolor="white", metadata=_METADATA[form])
        files.append(buffer.getvalue())
    return files


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    return to_bytes(figure, "png")[0]
