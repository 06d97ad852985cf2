"""What a figure shows, said once: drawn by plotly for pages (``plot_web``), by matplotlib for papers (``plot_paper``).

A colour is a hexadecimal "#rrggbb", or "ink" or "grid", which follow the page from light to dark. Texts are plain: both
ways of drawing show them as they are.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

Numbers: TypeAlias = Float[np.ndarray, "N"] | Int[np.ndarray, "N"] | Sequence[float | int]
Dash: TypeAlias = Literal["solid", "dash", "dot"]
Range: TypeAlias = tuple[float | int, float | int]


@dataclasses.dataclass(frozen=True)
class Line:
    """Points joined in their order; NaN breaks the line. ``stairs``: the value holds until the next point.

    ``texts`` are shown for each point under the pointer; a ``label`` of "" stands in no legend.
    """

    x: Numbers
    y: Numbers
    label: str = ""
    colour: str = "ink"
    dash: Dash = "solid"
    width: float = 1.8
    opacity: float = 1.0
    dots: bool = False
    stairs: bool = False
    texts: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Band:
    """The area between ``low`` and ``high``."""

    x: Numbers
    low: Numbers
    high: Numbers
    colour: str = "ink"
    opacity: float = 0.15


@dataclasses.dataclass(frozen=True)
class Bars:
    """Bars from 0, ``width`` in units of x; ``notes`` stand at their feet."""

    x: Numbers
    heights: Numbers
    label: str = ""
    colour: str = "ink"
    width: float = 0.7
    opacity: float = 0.75
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Heights over the bins between ``edges``, one more of those, as a filled outline."""

    edges: Float[np.ndarray, "E"]
    heights: Float[np.ndarray, "B"]
    label: str = ""
    colour: str = "ink"


@dataclasses.dataclass(frozen=True)
class Dots:
    """Points; ``sizes`` are areas in square points. ``low`` and ``high`` are the ends of intervals along y, or along x
    where ``across``; both or neither.
    """

    x: Numbers
    y: Numbers
    label: str = ""
    colour: str = "ink"
    colours: Sequence[str] = ()  # of each point, in place of ``colour``
    sizes: Float[np.ndarray, "N"] | tuple[float] = (30.0,)  # one each, or one for all
    opacity: float = 0.8
    low: Numbers = ()
    high: Numbers = ()
    across: bool = False
    texts: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Level:
    """A reference line over the whole panel, at one value of y, or of x where ``upright``."""

    at: float
    label: str = ""
    colour: str = "ink"
    dash: Dash = "dash"
    upright: bool = False


@dataclasses.dataclass(frozen=True)
class Note:
    """A few words beside the point (x, y), on its right."""

    x: float
    y: float
    text: str


Mark: TypeAlias = Line | Band | Bars | Histogram | Dots | Level | Note


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes; a range of None follows the marks, and takes in 0 if asked to. ``ticks`` are (place, words)."""

    title: str
    x: str
    y: str
    marks: Sequence[Mark]
    x_range: Range | None = None
    y_range: Range | None = None
    x_zero: bool = False
    y_zero: bool = False
    x_ticks: Sequence[tuple[float, str]] | None = None
    y_ticks: Sequence[tuple[float, str]] | None = None
    whole_x: bool = False  # ticks at whole numbers only
    legend: bool = True
    pick_out: bool = False  # on the page, the mark under the pointer stands out


@dataclasses.dataclass(frozen=True)
class Plot:
    """Panels under one heading, ``columns`` in a row; ``height`` of a panel in inches. ``name`` names its files."""

    name: str
    panels: Sequence[Panel]
    columns: int = 2
    height: float = 3.0
