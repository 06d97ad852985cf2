"""The points of a sweep on a terminal, best first, with intervals."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_jax.console import clean_text
from rlhf_jax.sweeps.folder import Trial
from rlhf_jax.sweeps.results import as_json
from rlhf_jax.sweeps.space import named
from rlhf_jax.sweeps.spec import SweepSpec


def print_table(spec: SweepSpec, trials: Sequence[Trial]) -> None:
    """Print the points: their settings, means with 95 % intervals, how far behind the best, and what became of them."""
    found = as_json(spec, trials)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=120)
    table = Table()
    table.add_column("point", justify="right")
    table.add_column("settings", overflow="fold")
    table.add_column("trials", overflow="fold")
    for objective in spec.objectives:
        table.add_column(f"{objective.metric} ({objective.direction})", justify="right", overflow="fold")
        table.add_column("behind the best", justify="right", overflow="fold")
    several = len(spec.objectives) > 1
    if several:
        table.add_column("front")
    for point in found["points"]:
        done = point["states"].count("done")
        others = [f"{state} {point['states'].count(state)}" for state in sorted({*point["states"]} - {"done"})]
        settings = Text(clean_text("\n".join(named(point["parameters"]))))  # a user's names are no markup
        cells: list[str | Text] = [str(point["point"]), settings, ", ".join([f"done {done}", *others])]
        for objective in spec.objectives:
            name = objective.metric
            cells.append(_cell(point["mean"][name], point["half_width"][name]))
            cells.append(_cell(point["behind"][name], point["behind_half_width"][name]))
        table.add_row(*cells, *(["yes" if point["front"] else ""] if several else []))
    console.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    console.print(f"{spec.trials} trials: {counts or 'none made'}. Mean ± half of the 95 % interval over seeds.")
    for trial in trials:
        if trial.reason:
            told = clean_text(f"trial {trial.number} {trial.state}: {trial.reason}")
            console.print(told, soft_wrap=True, markup=False)


def _cell(value: float | None, width: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" + ("" if not width else f" ± {width:.2g}")
