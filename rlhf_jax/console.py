"""What a run says on the terminal: a progress bar, or tidy lines where there is no terminal."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, SupportsFloat

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rlhf_jax.foreign import clean_text

RATE_WINDOW = 20
CELL_LIMIT = 160
LOG_WIDTH = 120


class Console:
    """Progress of one stage: a live bar on a terminal, else one aligned line per logged interval.

    ``total`` and ``start`` count steps; a resumed stage starts at its restored step. Use as a
    context manager.
    """

    def __init__(
        self,
        total: int,
        stage: str,
        *,
        start: int = 0,
        console: RichConsole | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._stage = stage
        self._clock = clock
        self._marks = deque([(clock(), start)], maxlen=RATE_WINDOW)
        self._rich = console or _standard_output()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if self._rich.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                console=self._rich,
            )
            self._task = self._progress.add_task(stage, total=total, completed=start, rate="", figures="")
            self._progress.start()

    def advance(self, step: int) -> None:
        """Move the bar to ``step`` finished steps; without a terminal nothing is printed."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Show the metrics of ``step``: beside the bar, or as a line with rate and time left."""
        self._marks.append((self._clock(), step))
        figures = "  ".join(f"{clean_text(name)} {_number(value)}" for name, value in metrics.items())
        rate = self._rate()
        speed = f"{_number(rate)} steps/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, rate=speed, figures=figures)
            return
        left = _clock_text((self._total - step) / rate) if rate > 0 else "?"
        width = len(str(self._total))
        head = f"{self._stage:<8} {step:>{width}}/{self._total}"
        self.print("  ".join(part for part in (head, figures, speed, f"eta {left}") if part))

    def print(self, text: str) -> None:
        """Print one line as it is, above the bar if there is one."""
        self._rich.print(Text(clean_text(text)), soft_wrap=True, highlight=False)

    def samples(self, rows: Iterable[Mapping[str, Any]], title: str) -> None:
        """Print completions as a table, above the bar if there is one."""
        samples_table(rows, title, console=self._rich)

    def close(self) -> None:
        """Leave the bar as it stands and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _rate(self) -> float:
        """Steps per second over the last logged intervals, so that a compilation fades from it."""
        (first_time, first_step), (last_time, last_step) = self._marks[0], self._marks[-1]
        elapsed = last_time - first_time
        return (last_step - first_step) / elapsed if elapsed > 0 else 0.0


def samples_table(rows: Iterable[Mapping[str, Any]], title: str, *, console: RichConsole | None = None) -> None:
    """Print a table of prompt, response, proxy and gold reward, and of critiques if there are any; text is cleaned and
    cut by "…".
    """
    rows = list(rows)
    criticised = any(row.get("critique") for row in rows)
    table = Table(title=Text(clean_text(title)), title_justify="left", expand=False)
    table.add_column("prompt", ratio=2, overflow="fold")
    table.add_column("response", ratio=3, overflow="fold")
    if criticised:
        table.add_column("critique", ratio=2, overflow="fold")
    table.add_column("proxy", justify="right", no_wrap=True)
    table.add_column("gold", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(shorten(str(row["prompt"]), CELL_LIMIT)),
            Text(shorten(str(row["response"]), CELL_LIMIT)),
            *([Text(shorten(str(row.get("critique") or ""), CELL_LIMIT))] if criticised else []),
            _score(row.get("proxy")),
            _score(row.get("gold")),
        )
    (console or _standard_output()).print(table)


def say(text: str) -> None:
    """Print a line, whoever wrote it."""
    print(clean_text(text), flush=True)


def shorten(text: str, limit: int) -> str:
    """Clean text on one line of at most ``limit`` characters, the cut shown as "…"."""
    line = " ".join(clean_text(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


class _Output(RichConsole):
    """Standard output that tells when nobody reads it any more, where Rich would end the program by itself."""

    def on_broken_pipe(self) -> None:
        self.quiet = True  # leaving a bar would write again
        raise  # what Rich has just caught


def _standard_output() -> RichConsole:
    # Rich takes 80 columns where there is no terminal; a log file has room for more.
    return _Output(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)


def _number(value: SupportsFloat) -> str:
    """Three significant digits, without an exponent for everyday sizes."""
    number = float(value)
    size = abs(number)
    if size >= 1000:
        return f"{number:,.0f}" if size < 1e7 else f"{number:.2e}"
    if size >= 100:
        return f"{number:.0f}"
    if size >= 10:
        return f"{number:.1f}"
    if size >= 1:
        return f"{number:.2f}"
    return f"{number:.3f}" if size >= 0.01 or size == 0 else f"{number:.1e}"


def _score(value: SupportsFloat | str | None) -> str:
    return "–" if value is None else f"{float(value):.3f}"


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
