"""Table, figure and verdict from the summaries of the settings. No JAX."""

from pathlib import Path

import numpy as np

from experiments.ensembles.sweep import AGGREGATES, ARMS, BEST_OF, SEEDS, SHIFTS
from experiments.findings import write_findings
from experiments.measures import interval
from rlhf_jax.metrics import read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, TYPE_COLOURS, figure_style, panels, to_png

KINDS = ("open", "closed")
SETS = tuple((shift, kind) for shift in SHIFTS for kind in KINDS if (shift, kind) != ("vivid", "closed"))
MOST = BEST_OF[-1]
COLOURS = (TYPE_COLOURS["open"], TYPE_COLOURS["closed"], *OTHER_COLOURS, NEUTRAL)
Runs = dict[str, list[dict[str, float]]]


def read_runs(root: Path) -> Runs:
    """arm -> the summary of each seed."""
    return {arm: [read_summary(root / f"{arm}.{seed}") for seed in SEEDS] for arm in ARMS}


def over_seeds(runs: Runs, arm: str, name: str) -> tuple[float, float]:
    """Interval of a measure over the seeds that have it."""
    found = [run[name] for run in runs[arm] if name in run]
    return interval(found) if found else (float("nan"), float("nan"))


def against(runs: Runs, arm: str, name: str, other: str) -> tuple[float, float]:
    """Interval of the difference of two measures, seed by seed."""
    return interval([run[name] - run[other] for run in runs[arm] if name in run])


def gain(runs: Runs, arm: str, kind: str, how: str) -> tuple[float, float]:
    """Gold of best-of-n at the largest n under an aggregate, minus that under the mean."""
    return against(runs, arm, f"bon.{kind}.{how}.{MOST}.gold", f"bon.{kind}.mean.{MOST}.gold")


def _cell(found: tuple[float, float], digits: int = 2) -> str:
    centre, half = found
    if np.isnan(centre):
        return "–"
    return f"{centre:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def table_text(runs: Runs) -> str:
    """Everything, with intervals."""
    lines = []
    columns = {
        "accuracy": 2,
        "accuracy.single": 2,
        "spread": 3,
        "detected": 2,
        "auroc": 2,
        "auroc.gap": 2,
        "error_correlation": 2,
    }
    for arm in ARMS:
        lines += [f"{arm}: mean over {len(SEEDS)} seeds ± half of the 95 % interval.", ""]
        lines += [f"| lists | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
        for shift, kind in SETS:
            cells = [_cell(over_seeds(runs, arm, f"{shift}.{kind}.{name}"), digits) for name, digits in columns.items()]
            lines.append(f"| {shift}, {kind} | {' | '.join(cells)} |")
        lines += ["", "Gold of best-of-n, open prompts.", ""]
        lines += [f"| n | {' | '.join(('single', *AGGREGATES))} |", "| --- |" + " --- |" * (len(AGGREGATES) + 1)]
        for n in BEST_OF:
            names = (f"bon.open.{how}.{n}.gold" for how in ("single", *AGGREGATES))
            lines.append(f"| {n} | {' | '.join(_cell(over_seeds(runs, arm, name), 3) for name in names)} |")
        lines += ["", f"Gold at n = {MOST} minus that of the mean, seed by seed.", ""]
        others = ("single", *(how for how in AGGREGATES if how != "mean"))
        lines += [f"| prompts | {' | '.join(others)} |", "| --- |" + " --- |" * len(others)]
        for kind in KINDS:
            lines.append(f"| {kind} | {' | '.join(_cell(gain(runs, arm, kind, how), 3) for how in others)} |")
        lines.append("")
    return "\n".join(lines)


def figure(runs: Runs) -> bytes:
    """Spread and accuracy by shift, whether the spread tells them apart, best-of-n."""
    with figure_style():
        drawing, axes = panels(2, 2, height=3.6, width=11.0)
        ticks = [f"{shift}\n{kind}" for shift, kind in SETS]
        views = (
            ("accuracy", "pair accuracy of the mean reward", None),
            ("detected", "does spread tell shifted responses from familiar ones?", "AUROC"),
            ("auroc", "does spread tell mis-ordered pairs from others?", "AUROC"),
        )
        for ax, (name, title, label) in zip(axes, views, strict=False):
            for place, (arm, colour) in enumerate(zip(ARMS, COLOURS, strict=False)):
                found = np.array([over_seeds(runs, arm, f"{shift}.{kind}.{name}") for shift, kind in SETS])
                where = np.arange(len(SETS)) + 0.2 * (place - 1)
                ax.errorbar(where, found[:, 0], yerr=found[:, 1], fmt="o", ms=4, lw=0.8, color=colour, label=arm)
            ax.axhline(0.5, color=NEUTRAL, lw=0.8)
            ax.set(title=title, xticks=range(len(SETS)), ylabel=label or "share", ylim=(-0.05, 1.05))
            ax.set_xticklabels(ticks, fontsize=5.5)
        axes[0].legend(fontsize=7.5, labelcolor=INK)
        for how, colour in zip(("single", *AGGREGATES), COLOURS, strict=False):
            found = np.array([over_seeds(runs, "models", f"bon.open.{how}.{n}.gold") for n in BEST_OF])
            axes[3].errorbar(BEST_OF, found[:, 0], yerr=found[:, 1], fmt="o-", ms=3, lw=1.1, color=colour, label=how)
        axes[3].set(title="best-of-n, open prompts, five whole models", xscale="log", xlabel="n", ylabel="gold reward")
        axes[3].set_xticks(BEST_OF, labels=[str(n) for n in BEST_OF])
        axes[3].set_xticks([], minor=True)
        axes[3].legend(fontsize=7.5, labelcolor=INK)
        return to_png(drawing)


def verdict(runs: Runs) -> dict[str, object]:
    """Does the spread see shifts, does it see errors, do the cautious aggregates keep more gold than the mean?"""

    def sets_where(arm: str, name: str, sets: tuple[tuple[str, str], ...], side: int) -> list[str]:
        """Those whose interval lies above one half (``side`` 1) or below it (-1)."""
        found = {f"{shift} {kind}": over_seeds(runs, arm, f"{shift}.{kind}.{name}") for shift, kind in sets}
        return [which for which, (centre, half) in found.items() if side * (centre - 0.5) - half > 0]

    shifted = tuple(one for one in SETS if one[0] != "same")
    found: dict[str, object] = {}
    texts = []
    for arm in ARMS:
        seen = sets_where(arm, "detected", shifted, 1)
        told = sets_where(arm, "auroc", SETS, 1)
        gains = {f"{how}, {kind}": gain(runs, arm, kind, how) for how in AGGREGATES if how != "mean" for kind in KINDS}
        better = [name for name, (centre, half) in gains.items() if centre - half > 0]
        worse = [name for name, (centre, half) in gains.items() if centre + half < 0]
        found[arm] = {
            "spread_larger_on": seen,
            "spread_smaller_on": sets_where(arm, "detected", shifted, -1),
            "spread_tells_errors_on": told,
            "gold_minus_mean": {name: [round(value, 4) for value in one] for name, one in gains.items()},
            "more_gold_than_mean": better,
            "less_gold_than_mean": worse,
        }
        texts.append(
            f"{arm}: spread larger on {len(seen)} of {len(shifted)} shifted sets, tells errors on {len(told)} of "
            f"{len(SETS)}; best-of-{MOST} gains gold in {len(better)} and loses in {len(worse)} of {len(gains)} cases"
        )
    found["verdict"] = "; ".join(texts)
    return found


def main(root: Path) -> None:
    """Write ``figures/ensembles.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    runs = read_runs(root)
    write_findings(root, "ensembles", figure(runs), table_text(runs), verdict(runs))
