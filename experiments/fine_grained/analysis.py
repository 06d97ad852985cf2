"""Table, figure and verdict from the summaries, metrics and samples of the runs. No JAX."""

import itertools
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.findings import write_findings
from experiments.fine_grained.sweep import ARMS, SEEDS
from experiments.measures import interval
from rlhf_jax.data.world_local import KINDS, defects, gold_local
from rlhf_jax.metrics import read_jsonl, read_metrics, read_summary
from rlhf_jax.reports.style import INK, OTHER_COLOURS, TYPE_COLOURS, figure_style, panels, to_png

COLOURS = (TYPE_COLOURS["open"], TYPE_COLOURS["closed"], *OTHER_COLOURS)
BASE = "dense"
PATH_KL = (1.0, 2.0, 4.0)  # nats, at which the arms are compared
NAMES = ("gold", *KINDS)
Course = dict[str, Float[np.ndarray, "E"]]
Interval = tuple[float, float]


def course(folder: Path) -> Course:
    """A run on its way, at each evaluation on held-out prompts: iterations, nats of KL, gold, defects by kind.

    At iteration 0 the policy is that of the SFT run, whose answers stand beside the last ones.
    """
    found = {
        row["step"]: row["metrics"]["validation.kl"]
        for row in read_metrics(folder)
        if row["stage"] == "ppo" and "validation.kl" in row["metrics"]
    }
    points = [(step, kl, "response") for step, kl in sorted(found.items())]
    points.insert(0, (max(found), 0.0, "before"))
    columns: dict[str, list[float]] = {name: [] for name in ("step", "kl", *NAMES)}
    for step, kl, field in points:
        rows = read_jsonl(folder / "samples" / "ppo" / f"{step}.jsonl")
        columns["step"].append(0 if field == "before" else step)
        columns["kl"].append(kl)
        columns["gold"].append(float(np.mean([gold_local(row["prompt"], row[field]) for row in rows])))
        each = [defects(row["prompt"], row[field]) for row in rows]
        for kind in KINDS:
            columns[kind].append(float(np.mean([one[kind] for one in each])))
    return {name: np.array(values) for name, values in columns.items()}


def at_kl(run: Course, level: float) -> dict[str, float]:
    """Gold and defects where KL first reaches ``level``, interpolated between two evaluations; NaN if it never does."""
    for before, after in itertools.pairwise(range(len(run["kl"]))):
        low, high = run["kl"][before], run["kl"][after]
        if low < level <= high:
            share = (level - low) / (high - low)
            return {name: float(run[name][before] + share * (run[name][after] - run[name][before])) for name in NAMES}
    return dict.fromkeys(NAMES, float("nan"))


def measures(run: Course) -> dict[str, float]:
    """What is compared of a run: its mean over iterations (the area under the course), its end, its way in KL."""
    area = np.trapezoid(run["gold"], run["step"]) / run["step"][-1]
    found = {"gold, mean over iterations": float(area), "KL at the end": float(run["kl"][-1])}
    found |= {f"{name} at the end": float(run[name][-1]) for name in NAMES}
    for level in PATH_KL:
        found |= {f"{name} at {level:g} nats": value for name, value in at_kl(run, level).items()}
    return found


def difference(values: dict[str, list[dict[str, float]]], arm: str, measure: str) -> Interval:
    """Interval over seeds of ``dense`` minus an arm, seed by seed; NaN if any seed lacks it."""
    return interval([own[measure] - other[measure] for own, other in zip(values[BASE], values[arm], strict=True)])


def table_text(root: Path, values: dict[str, list[dict[str, float]]]) -> str:
    """Every measure of every arm, and what ``dense`` has more of; then the reward models."""
    others = [arm for arm in ARMS if arm != BASE]
    heads = ["measure", *ARMS, *(f"{BASE} - {arm}" for arm in others)]
    lines = [
        f"PPO on the local task, held-out prompts, {len(SEEDS)} seeds: mean ± half of the 95 % interval; differences "
        "are paired by seed. Defects are shares of the phrases (short: of five). Before PPO: "
        + ", ".join("{} {:.3f}".format(n, np.mean([run[f"before.{n}"] for run in values[BASE]])) for n in NAMES)
        + ".",
        "",
        f"| {' | '.join(heads)} |",
        "| --- |" + " --- |" * (len(heads) - 1),
    ]
    for measure in values[BASE][0]:
        if measure.startswith("before."):
            continue
        cells = ["{:.3f} ± {:.3f}".format(*interval([run[measure] for run in values[arm]])) for arm in ARMS]
        cells += ["{:+.3f} ± {:.3f}".format(*difference(values, arm, measure)) for arm in others]
        lines.append(f"| {measure} | {' | '.join('not by all' if 'nan' in cell else cell for cell in cells)} |")
    lines += ["", "The reward models on held-out lists.", "", "| model | figure |", "| --- | --- |"]
    for kind in KINDS:
        found = [read_summary(root / f"{BASE}.{seed}") for seed in SEEDS]
        text = ["{} {:.3f} ± {:.3f}".format(n, *interval([f[f"segments.{n}.{kind}"] for f in found])) for n in FIGURES]
        lines.append(f"| {BASE}, {kind} | {', '.join(text)} |")
    accuracy = [read_summary(root / f"scores.{seed}")["reward.pair_accuracy"] for seed in SEEDS]
    lines.append("| scores | pair accuracy {:.3f} ± {:.3f} |".format(*interval(accuracy)))
    return "\n".join([*lines, ""])


FIGURES = ("base_rate", "accuracy", "auc")


def figure(runs: dict[str, list[Course]]) -> bytes:
    """Gold against iterations and against KL; then each kind of defect against iterations."""
    with figure_style():
        drawing, axes = panels(2, 3, height=3.4, width=13.5)
        for arm, colour in zip(ARMS, COLOURS, strict=False):
            steps = runs[arm][0]["step"]
            for ax, name in zip((axes[0], *axes[2:]), NAMES, strict=True):
                each = np.array([run[name] for run in runs[arm]])
                ax.plot(steps, each.mean(axis=0), color=colour, label=arm, marker=".")
                ax.fill_between(steps, each.min(axis=0), each.max(axis=0), color=colour, alpha=0.15, lw=0)
            for seed, run in enumerate(runs[arm]):
                axes[1].plot(run["kl"], run["gold"], color=colour, lw=1, marker=".", label=arm if seed == 0 else None)
        axes[0].set(title="Gold reward (mean and range of seeds)", xlabel="iterations of PPO", ylabel="gold")
        axes[1].set(title="Gold reward at equal KL (each seed)", xlabel="KL, nats per answer", ylabel="gold")
        for ax, kind in zip(axes[2:], KINDS, strict=True):
            what = "share of five phrases missing" if kind == "short" else "share of phrases"
            ax.set(title=f"Defect: {kind}", xlabel="iterations of PPO", ylabel=what)
        axes[0].legend(fontsize=8, labelcolor=INK)
        return to_png(drawing)


def verdict(values: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Whether dense rewards get further: over iterations and at equal KL, against each other arm."""
    found: dict[str, object] = {}
    words = []
    for arm in (arm for arm in ARMS if arm != BASE):
        clear = {}
        for measure in ("gold, mean over iterations", "gold at the end", *(f"gold at {kl:g} nats" for kl in PATH_KL)):
            centre, half = difference(values, arm, measure)
            if np.isnan(half):
                clear[measure] = "not reached by all"
            else:
                sign = "better" if centre > half else "worse" if centre < -half else "no clear difference"
                clear[measure] = f"{sign} ({centre:+.3f} ± {half:.3f})"
        found[f"{BASE} against {arm}"] = clear
        words.append(f"than {arm}: {clear['gold, mean over iterations']}")
    found["verdict"] = "gold of dense rewards, mean over iterations, " + "; ".join(words)
    return found


def main(root: Path) -> None:
    """Write ``figures/fine_grained.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    runs = {arm: [course(root / f"{arm}.{seed}") for seed in SEEDS] for arm in ARMS}
    values = {
        arm: [{**measures(run), **{f"before.{name}": float(run[name][0]) for name in NAMES}} for run in found]
        for arm, found in runs.items()
    }
    write_findings(root, "fine_grained", figure(runs), table_text(root, values), verdict(values))
