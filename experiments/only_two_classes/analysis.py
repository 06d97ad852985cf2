"""Table, figure and verdict from the summaries of the settings. No JAX."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.findings import write_findings
from experiments.measures import interval
from experiments.only_two_classes.sweep import REAL_SEEDS, REAL_TYPES, SEEDS, SYNTHETIC
from rlhf_jax.metrics import read_json, read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, PROXY, TYPE_COLOURS, figure_style, panels, to_png

Measures = dict[str, Float[np.ndarray, "seeds"]]
REAL_MEASURES = ("reward.pair_accuracy", "w1", "w1.ideal", "spread_correlation")


def read_synthetic(root: Path, measure: str) -> Measures:
    """Setting -> a value for each seed; a setting without the measure is left out."""
    found = {name: read_summary(root / name) for name in SYNTHETIC}
    return {
        name: np.array([summary[f"{seed}.{measure}"] for seed in SEEDS])
        for name, summary in found.items()
        if f"{SEEDS[0]}.{measure}" in summary
    }


def read_real(root: Path) -> dict[int, Measures]:
    """Types -> measure -> a value for each seed; {} where the real lists were not at hand."""
    found = {types: [read_summary(root / f"real_{types}_seed{seed}") for seed in REAL_SEEDS] for types in REAL_TYPES}
    if not all("w1" in summary for summaries in found.values() for summary in summaries):
        return {}
    kept = (*REAL_MEASURES, "reliability", "explained_by_source")
    return {
        types: {name: np.array([summary[name] for summary in summaries]) for name in kept}
        for types, summaries in found.items()
    }


def table_text(w1: Measures, shapes: Measures, real: dict[int, Measures]) -> str:
    """Both parts: mean ± half of the 95 % interval over seeds."""
    lines = ["| shape of the utility | W1 to the gold rewards | mean error of the shape |", "| --- | --- | --- |"]
    for name in SYNTHETIC:
        cells = ["{:.4f} ± {:.4f}".format(*interval(each[name])) if name in each else "" for each in (w1, shapes)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    if not real:
        return "\n".join([*lines, "The real lists were not at hand.", ""])
    lines += [f"| types, real lists | {' | '.join(REAL_MEASURES)} |", "| --- |" + " --- |" * len(REAL_MEASURES)]
    for types, measures in real.items():
        cells = ["{:.4f} ± {:.4f}".format(*interval(measures[name])) for name in REAL_MEASURES]
        lines.append(f"| {types} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def figure(root: Path, w1: Measures, real: dict[int, Measures]) -> bytes:
    """Error by setting; error by the true shape; what the gates say; the real lists."""
    with figure_style():
        drawing, axes = panels(2, 2, height=3.7, width=12.0)
        groups = {"given": TYPE_COLOURS["open"], "gate": PROXY, "estimated": OTHER_COLOURS[0]}
        for place, (name, values) in enumerate(w1.items()):
            mean, half = interval(values)
            axes[0].barh(place, mean, xerr=half, color=groups[name.partition("_")[0]], height=0.7)
        axes[0].set(yticks=range(len(w1)), yticklabels=[name.replace("_", " ") for name in w1])
        axes[0].invert_yaxis()
        axes[0].set(xlabel="W1, model's rewards to gold rewards", title=f"synthetic, {len(SEEDS)} seeds")

        lines = {"given_1": NEUTRAL, "given_2": TYPE_COLOURS["closed"], "given_continuous": TYPE_COLOURS["open"]}
        for name, colour in lines.items():
            table = read_json(root / name / "prompts.json")
            truth, error = np.array(table["shape"]), np.array(table["w1"])
            edges = np.linspace(0.05, 0.95, 16)
            place = np.clip(np.digitize(truth, edges) - 1, 0, len(edges) - 2)
            means = [error[place == k].mean() for k in range(len(edges) - 1)]
            axes[1].plot((edges[1:] + edges[:-1]) / 2, means, color=colour, label=name.replace("_", " "))
        axes[1].set(xlabel="true shape a of a prompt", ylabel="W1 to gold", ylim=(0, None), title="where classes lose")
        axes[1].legend(labelcolor=INK)

        for place, name in enumerate(("gate_continuous", "gate_2", "gate_own_utility", "estimated_disagreement")):
            table = read_json(root / name / "prompts.json")
            axes[2].plot(table["shape"], table["gate"], ".", ms=3, color=OTHER_COLOURS[place], label=name)
        axes[2].plot((0, 1), (0, 1), color=NEUTRAL, lw=0.8)
        axes[2].set(xlabel="true shape a", ylabel="shape by the gate", title="held-out prompts, seed 0")
        axes[2].legend(labelcolor=INK, fontsize=8, markerscale=3)

        for name, colour in (("w1", TYPE_COLOURS["open"]), ("w1.ideal", NEUTRAL)):
            points = [interval(measures[name]) for measures in real.values()]
            if points:
                means, halves = zip(*points, strict=True)
                label = "trained model" if name == "w1" else "the law of the type itself"
                axes[3].errorbar(list(real), means, yerr=halves, fmt="o-", color=colour, label=label)
        axes[3].set(xlabel="types by dispersion", ylabel="W1, rewards to judge's scores", ylim=(0, None))
        axes[3].set(xticks=REAL_TYPES, title="real lists" if real else "real lists: not at hand")
        if real:
            axes[3].legend(labelcolor=INK)
        return to_png(drawing)


def _difference(a: Float[np.ndarray, "seeds"], b: Float[np.ndarray, "seeds"]) -> list[float]:
    return [round(value, 5) for value in interval(a - b)]


def verdict(w1: Measures, real: dict[int, Measures]) -> dict[str, Any]:
    """Whether two classes lose to more, and whether a gate or an estimate keeps what more gain; paired by seed."""
    best = w1["given_continuous"]
    gain = float((w1["given_1"] - best).mean())
    found: dict[str, Any] = {
        "two_minus_continuous": _difference(w1["given_2"], best),
        "three_minus_continuous": _difference(w1["given_3"], best),
        "five_minus_continuous": _difference(w1["given_5"], best),
        "share_of_gain": {k: round(1 - float((w1[f"given_{k}"] - best).mean()) / gain, 3) for k in (2, 3, 5)},
        "gate_minus_continuous": _difference(w1["gate_continuous"], best),
        "gate_minus_two_given": _difference(w1["gate_continuous"], w1["given_2"]),
        "score_moment_minus_two_given": _difference(w1["estimated_score_moment"], w1["given_2"]),
        "own_utility_minus_one_class": _difference(w1["gate_own_utility"], w1["given_1"]),
    }
    loses = found["two_minus_continuous"][0] > found["two_minus_continuous"][1]
    learned = sum(found["gate_minus_two_given"]) < 0
    text = "two classes lose to a shape per prompt" if loses else "two classes lose nothing measurable"
    text += f", and keep {found['share_of_gain'][2]:.0%} of what prompt-awareness gains"
    text += (
        "; a gate learned by a proper score beats two classes given with the data"
        if learned
        else ("; a learned gate does not beat two classes given with the data")
    )
    if real:
        found["real"] = {
            f"{name}.{types}_minus_1": _difference(real[types][name], real[1][name])
            for types in REAL_TYPES[1:]
            for name in REAL_MEASURES[:3]
        }
        found["real"]["reliability_of_dispersion"] = round(float(real[1]["reliability"][0]), 3)
        found["real"]["dispersion_explained_by_source"] = round(float(real[1]["explained_by_source"][0]), 4)
        nearer = [types for types in REAL_TYPES[1:] if sum(_difference(real[types]["w1"], real[1]["w1"])) < 0]
        text += "; on real lists " + (
            f"{' and '.join(map(str, nearer))} types bring rewards nearer to the scores than one"
            if nearer
            else "no number of types brings rewards measurably nearer to the scores than one"
        )
    found["two_classes_suffice"] = not loses
    found["verdict"] = text
    return found


def main(root: Path) -> None:
    """Write ``figures/only_two_classes.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    w1, shapes, real = read_synthetic(root, "w1"), read_synthetic(root, "shape_error"), read_real(root)
    write_findings(root, "only_two_classes", figure(root, w1, real), table_text(w1, shapes, real), verdict(w1, real))
