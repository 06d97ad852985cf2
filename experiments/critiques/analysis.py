"""Table, figure and verdict from the summaries of the settings. No JAX."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.critiques.sweep import ARMS, LISTS, SEEDS, SETTINGS
from experiments.findings import write_findings
from experiments.measures import interval
from rlhf_jax.metrics import read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, TYPE_COLOURS, figure_style, panels, to_png

CRITICS = ("critique", "mixed")  # the arms that write critiques
BASES = ("plain", "plain_long")
READINGS = ("own", "sampled", "true", "shuffled")  # after which critique they are read at test
KINDS = ("", ".open", ".closed")
COLOURS = (TYPE_COLOURS["open"], TYPE_COLOURS["closed"], *OTHER_COLOURS)
Interval = tuple[float, float]
Table = dict[tuple[str, int], dict[str, Float[np.ndarray, "seeds"]]]


def read_tables(root: Path) -> Table:
    """(arm, lists) -> measure -> its value of each seed; arms of which a setting has no records are left out."""
    tables: Table = {}
    summaries = {value: read_summary(root / setting.rpartition("/")[2]) for setting, value in SETTINGS.items()}
    for (arm, lists), found in summaries.items():
        if not all(summaries[arm, n] for n in LISTS):
            continue
        names = [name.partition(".")[2] for name in found if name.startswith(f"{SEEDS[0]}.")]
        tables[arm, lists] = {name: np.array([found[f"{seed}.{name}"] for seed in SEEDS]) for name in names}
    return tables


def arms_of(tables: Table, arms: Sequence[str] = ARMS) -> list[str]:
    """Those of ``arms`` that were run."""
    return [arm for arm in arms if (arm, LISTS[0]) in tables]


def gain(tables: Table, arm: str, base: str, lists: int, measure: str = "own") -> Interval:
    """Interval of the accuracy of ``arm`` by ``measure`` minus that of ``base`` after its own, seed by seed."""
    kind = measure.partition(".")[2]
    return interval(tables[arm, lists][measure] - tables[base, lists][f"own.{kind}" if kind else "own"])


def outcome(found: Interval) -> str:
    """Where 0 lies with regard to an interval."""
    centre, half = found
    return "better" if centre - half > 0 else "worse" if centre + half < 0 else "no difference clear of the seeds"


def cell(found: Interval, sign: str = "") -> str:
    return f"{found[0]:{sign}.3f} ± {found[1]:.3f}"


def table_text(tables: Table) -> str:
    """Accuracies, paired differences, readings of the critics, quality of their critiques, cost."""
    head = [f"| {' | '.join(map(str, LISTS))} |", " --- |" * len(LISTS)]
    lines = [f"Held-out pair accuracy by number of labelled lists; {len(SEEDS)} seeds, 95 % intervals.", ""]
    for kind in KINDS:
        lines += [f"| arm, {kind.lstrip('.') or 'all'} prompts {head[0]}", f"| --- |{head[1]}"]
        for arm in arms_of(tables):
            cells = [cell(interval(tables[arm, n][f"own{kind}"])) for n in LISTS]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["Paired differences.", "", f"| difference {head[0]}", f"| --- |{head[1]}"]
    for arm in arms_of(tables, CRITICS):
        for base in arms_of(tables, BASES):
            for kind in KINDS:
                cells = [cell(gain(tables, arm, base, n, f"own{kind}"), "+") for n in LISTS]
                title = f"{arm} - {base}{', ' + kind.lstrip('.') if kind else ''}"
                lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "Accuracy of the same models, rewards read after other critiques.", ""]
    lines += [f"| arm, read after {head[0]}", f"| --- |{head[1]}"]
    for arm in arms_of(tables, CRITICS):
        for reading in READINGS:
            cells = [cell(interval(tables[arm, n][reading])) for n in LISTS]
            lines.append(f"| {arm}, {reading} | {' | '.join(cells)} |")
    lines += ["", "Own critiques that are word for word as given.", "", f"| arm {head[0]}", f"| --- |{head[1]}"]
    for arm in arms_of(tables, CRITICS):
        for kind in KINDS:
            cells = [cell(interval(tables[arm, n][f"critique_exact{kind}"])) for n in LISTS]
            lines.append(f"| {arm}{', ' + kind.lstrip('.') if kind else ''} | {' | '.join(cells)} |")
    costs = [f"{arm} {cost(tables, arm):.1f}" for arm in arms_of(tables)]
    return "\n".join([*lines, "", f"Training, CPU seconds a model (median over all): {', '.join(costs)}.", ""])


def cost(tables: Table, arm: str) -> float:
    """CPU seconds of training, the median over seeds and sizes: compilation is in the first one only."""
    return float(np.median([tables[arm, n]["cpu_seconds"] for n in LISTS]))


def figure(tables: Table) -> bytes:
    """Accuracy by labelled lists; the same models after other critiques; how often critiques are as given."""
    with figure_style():
        drawing, axes = panels(1, 3, height=3.6, width=13.5)

        def curve(place: int, arm: str, measure: str, label: str, colour: str, style: str = "o-") -> None:
            centre, half = np.array([interval(tables[arm, n][measure]) for n in LISTS]).T
            axes[place].errorbar(LISTS, centre, yerr=half, fmt=style, ms=4, lw=1.2, color=colour, label=label)

        for arm, colour in zip(arms_of(tables), COLOURS, strict=False):
            curve(0, arm, "own", arm, colour)
        for reading, colour in zip(READINGS, COLOURS, strict=False):
            curve(1, CRITICS[0], reading, f"after {reading}", colour)
        for arm, style in zip(arms_of(tables, CRITICS), ("o--", "o-"), strict=False):
            for kind, colour in (("open", TYPE_COLOURS["open"]), ("closed", TYPE_COLOURS["closed"])):
                curve(2, arm, f"critique_exact.{kind}", f"{arm}, {kind}", colour, style)
        titles = ("Held-out pairs, gold order", f"{CRITICS[0]}, read after other critiques", "Own critiques as given")
        for ax, title, unit in zip(axes, titles, ("accuracy", "accuracy", "share"), strict=True):
            ax.set(xscale="log", title=title, xlabel="labelled lists of four", ylabel=unit)
            ax.set_xticks(LISTS, labels=[str(n) for n in LISTS])
            ax.set_xticks([], minor=True)
            ax.legend(fontsize=8, labelcolor=INK)
        drawing.supxlabel(f"bars: 95 % intervals over {len(SEEDS)} seeds", color=NEUTRAL, fontsize=8)
        return to_png(drawing)


def verdict(tables: Table) -> dict[str, object]:
    """Do critiques help at equal labels, at equal compute, are they read, and what would true ones be worth?"""
    found: dict[str, object] = {}
    for arm in arms_of(tables, CRITICS):
        for base in arms_of(tables, BASES):
            found[f"{arm} against {base}"] = {str(n): outcome(gain(tables, arm, base, n)) for n in LISTS}
    found["gains"] = {
        f"{arm} - {base}": {str(n): [round(v, 3) for v in gain(tables, arm, base, n)] for n in LISTS}
        for arm in arms_of(tables, CRITICS)
        for base in arms_of(tables, BASES)
    }
    found["gain of the true critique"] = {
        arm: {str(n): [round(v, 3) for v in gain(tables, arm, "plain", n, "true")] for n in LISTS}
        for arm in arms_of(tables, CRITICS)
    }
    used = {
        arm: {str(n): outcome(interval(tables[arm, n]["own"] - tables[arm, n]["shuffled"])) for n in LISTS}
        for arm in arms_of(tables, CRITICS)
    }
    found["own against shuffled"] = used
    found["sampled against greedy"] = {
        arm: {str(n): outcome(interval(tables[arm, n]["sampled"] - tables[arm, n]["own"])) for n in LISTS}
        for arm in arms_of(tables, CRITICS)
    }
    found["cpu_seconds"] = {arm: round(cost(tables, arm), 1) for arm in arms_of(tables)}

    def where(arm: str, base: str, what: str) -> list[int]:
        return [n for n in LISTS if outcome(gain(tables, arm, base, n)) == what]

    sentences = []
    equal = {"plain": "at equal labels and steps", "plain_long": "against plain_long"}
    for base in arms_of(tables, BASES):
        for arm in arms_of(tables, CRITICS):
            parts = [
                f"{what} with {', '.join(map(str, lists))} lists"
                for what in ("better", "worse")
                if (lists := where(arm, base, what))
            ]
            sentences.append(f"{equal[base]}, {arm} is {' and '.join(parts) or 'nowhere clearly better or worse'}")
    read = all(result == "better" for by_size in used.values() for result in by_size.values())
    sentences.append(f"critiques are {'read' if read else 'not everywhere read'} (own against shuffled)")
    sentences += [f"no records of {arm}" for arm in ARMS if arm not in arms_of(tables)]
    found["verdict"] = sentences
    return found


def main(root: Path) -> None:
    """Write ``figures/critiques.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    tables = read_tables(root)
    write_findings(root, "critiques", figure(tables), table_text(tables), verdict(tables))
