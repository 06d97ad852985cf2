"""What a page is made of: sections with a figure, tables, completions or texts to copy."""

import dataclasses
from collections.abc import Collection, Sequence

from rlhf_jax.reports.plot import Plot


@dataclasses.dataclass(frozen=True)
class Link:
    """A place in a table that leads to another page; ``href`` is relative and of the page's own making."""

    text: str
    href: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under ``columns``; a click on a heading sorts by it: ``numbers`` (places of columns, set right) by the
    number that a text begins with, the others by their texts. ``code``: places of columns set as code.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    numbers: Collection[int] = ()
    code: Collection[int] = ()
    folded: str = ""  # what it is folded away under, "" of one that stands open


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a completion: its reward where it has one of its own, on a scale from -1 to 1 in ``shade``."""

    text: str
    reward: float | None = None
    shade: float = 0.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """One completion with its scores, (name, value as text)."""

    pieces: Sequence[Piece]
    scores: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Completions:
    """Answers to the same prompts side by side: one row a prompt of (type, prompt, an answer or None a column)."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[Answer | None]]]


@dataclasses.dataclass(frozen=True)
class Code:
    """A text to copy, folded away under ``summary`` if there is one."""

    text: str
    summary: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order; but open texts to copy stand above the tables."""

    title: str
    text: str = ""
    plot: Plot | None = None
    tables: Sequence[Table] = ()
    completions: Completions | None = None
    codes: Sequence[Code] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """A whole page. ``state`` is a run's, "" of anything else."""

    title: str
    sections: Sequence[Section]
    findings: Sequence[str] = ()
    state: str = ""
    subtitle: str = ""
