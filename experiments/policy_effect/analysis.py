"""Tables, figure and verdict from the summaries, metrics and samples of the runs. No JAX."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.findings import write_findings
from experiments.measures import interval
from experiments.policy_effect.sweep import ARMS, BEST_OF, BETAS, EXACT_SEEDS, KLS, LAWS, SCALED, SEEDS
from rlhf_jax.metrics import read_jsonl, read_metrics, read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, TYPE_COLOURS, figure_style, panels, to_png

COLOURS = (TYPE_COLOURS["open"], TYPE_COLOURS["closed"], *OTHER_COLOURS, NEUTRAL)
STRICT = tuple(law for law in LAWS if "ties" not in law)  # their rewards order the answers as the ranking model does
PATH_KL = 1.0  # nats, at which the paths of PPO are compared
BASE = "even"
Interval = tuple[float, float]


def exact_interval(exact: dict[str, float], law: str, name: str) -> Interval:
    """Of one measure over seeds; NaN where it is out of reach."""
    return interval([exact.get(f"{seed}.{law}.{name}", np.nan) for seed in EXACT_SEEDS])


def distinct_2(texts: Iterable[str]) -> float:
    """Distinct pairs of neighbouring words over all such pairs."""
    pairs = [pair for text in texts for pair in itertools.pairwise(text.split())]
    return len(set(pairs)) / max(len(pairs), 1)


def gold_accuracy(rows: list[dict[str, Any]]) -> float:
    """Share of pairs of one list that differ in gold which the rewards order alike; equal rewards count one half."""
    hits = []
    for _, group in itertools.groupby(rows, key=lambda row: row["list"]):
        for a, b in itertools.combinations(list(group), 2):
            if a["gold"] != b["gold"]:
                hits.append((np.sign(a["reward"] - b["reward"]) * np.sign(a["gold"] - b["gold"]) + 1) / 2)
    return float(np.mean(hits))


def crossing(rows: list[dict[str, float]], level: float) -> dict[str, float]:
    """The metrics of PPO's iterations where KL first reaches ``level``, interpolated between two; {} if never."""
    for before, after in itertools.pairwise(rows):
        if before["kl"] < level <= after["kl"]:
            share = (level - before["kl"]) / (after["kl"] - before["kl"])
            return {name: before[name] + share * (after[name] - before[name]) for name in before if name in after}
    return {}


def measures_of_run(root: Path, name: str, seed: int) -> dict[str, float]:
    """Everything about one PPO run: accuracies of its reward model, its policy at the end and on its way."""
    folder = root / f"{name}.{seed}"
    judge = root / f"{BASE}.{seed}" if name in SCALED else folder  # where its ranking was trained
    summary = read_summary(folder)
    last = max((folder / "samples" / "ppo").glob("*.jsonl"), key=lambda path: int(path.stem))
    samples = read_jsonl(last)
    found = {
        "accuracy": read_summary(judge)["reward.pair_accuracy"],
        "accuracy, gold differs": gold_accuracy(read_jsonl(judge / "rewards" / "reward.jsonl")),
        "kl": summary["ppo.kl"],
        "entropy": summary["ppo.entropy"],
        "unique": summary["ppo.unique"],
    }
    for kind in ("open", "closed"):
        texts = [row["response"] for row in samples if row["prompt_type"] == kind]
        found |= {
            f"gold.{kind}": summary[f"ppo.gold.{kind}"],
            f"words.{kind}": float(np.mean([len(text.split()) for text in texts])),
            f"unique.{kind}": len(set(texts)) / len(texts),
            f"distinct_2.{kind}": distinct_2(texts),
        }
    path = [row["metrics"] for row in read_metrics(folder) if row["stage"] == "ppo" and "entropy" in row["metrics"]]
    at = crossing(path, PATH_KL)
    found |= {
        f"at KL {PATH_KL:g}: {name}": at.get(name, np.nan) for name in ("entropy", "gold.open", "gold.closed", "length")
    }
    return found


def paths(root: Path, name: str) -> dict[str, np.ndarray]:
    """Metric -> (seed, iteration) of the runs under one utility."""
    runs = [
        [
            row["metrics"]
            for row in read_metrics(root / f"{name}.{seed}")
            if row["stage"] == "ppo" and "kl" in row["metrics"]
        ]
        for seed in SEEDS
    ]
    return {key: np.array([[row[key] for row in rows] for rows in runs]) for key in ("kl", "gold.open", "entropy")}


def tables(root: Path) -> tuple[dict[str, float], dict[str, dict[str, list[float]]]]:
    """The exact summary, and utility -> measure -> its values by seed."""
    ppo = {}
    for name in ARMS:
        rows = [measures_of_run(root, name, seed) for seed in SEEDS]
        ppo[name] = {key: [row[key] for row in rows] for key in rows[0]}
    return read_summary(root / "exact"), ppo


def table_text(exact: dict[str, float], ppo: dict[str, dict[str, list[float]]]) -> str:
    """Everything, with intervals."""
    lines = []
    columns = ("kl", "entropy", "unique", "top", "gold.open", "gold.closed", "length.open", "length.closed")
    for what, title in (
        *((f"beta{beta:g}", f"Optimum at beta {beta:g}") for beta in BETAS),
        *((f"kl{target:g}", f"Optimum at a mean KL of {target:g} nats") for target in KLS),
    ):
        lines += [
            f"{title}: one ranking, rewards by law; mean over {len(EXACT_SEEDS)} seeds ± half of the 95 % interval.",
            "",
        ]
        lines += [f"| law | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
        for law in LAWS:
            cells = ["{:.3f} ± {:.3f}".format(*exact_interval(exact, law, f"{what}.{name}")) for name in columns]
            lines.append(f"| {law} | {' | '.join('out of reach' if 'nan' in cell else cell for cell in cells)} |")
        lines.append("")
    lines += ["Best-of-n gold under the same rewards.", "", "| law | " + " | ".join(f"n = {n}" for n in BEST_OF) + " |"]
    lines.append("| --- |" + " --- |" * len(BEST_OF))
    for law in LAWS:
        cells = ["{:.3f} ± {:.3f}".format(*exact_interval(exact, law, f"bon{n}.gold")) for n in BEST_OF]
        lines.append(f"| {law} | {' | '.join(cells)} |")
    lines += ["", f"PPO, {len(SEEDS)} seeds, the same KL coefficient; held-out prompts unless it says where.", ""]
    lines += [f"| measure | {' | '.join(ARMS)} | " + " | ".join(f"{n} - {BASE}" for n in ARMS if n != BASE) + " |"]
    lines.append("| --- |" + " --- |" * (2 * len(ARMS) - 1))
    for measure in ppo[BASE]:
        cells = ["{:.3f} ± {:.3f}".format(*interval(ppo[name][measure])) for name in ARMS]
        cells += ["{:+.3f} ± {:.3f}".format(*difference(ppo, name, measure)) for name in ARMS if name != BASE]
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def difference(ppo: dict[str, dict[str, list[float]]], name: str, measure: str) -> Interval:
    """Interval of the difference to the even utility, seed by seed."""
    return interval(np.array(ppo[name][measure]) - np.array(ppo[BASE][measure]))


def figure(root: Path, exact: dict[str, float], ppo: dict[str, dict[str, list[float]]]) -> bytes:
    """Above: the exact optimum. Below: PPO."""
    with figure_style():
        drawing, axes = panels(2, 3, height=3.6, width=13.5)
        for law, colour in zip(LAWS, COLOURS, strict=False):
            marks = {"color": colour, "label": law, "fmt": "o-", "ms": 3, "lw": 1.2}
            centre, half = np.array([exact_interval(exact, law, f"beta{beta:g}.entropy") for beta in BETAS]).T
            axes[0].errorbar(BETAS, centre, yerr=half, **marks)
            centre, half = np.array([exact_interval(exact, law, f"kl{target:g}.gold") for target in KLS]).T
            axes[1].errorbar(KLS, centre, yerr=half, **marks)
            centre, half = np.array([exact_interval(exact, law, f"kl{target:g}.top") for target in KLS]).T
            axes[2].errorbar(KLS, centre, yerr=half, **marks)
        axes[0].set(xscale="log", title="Optimum at equal beta", xlabel="beta, reward per nat", ylabel="entropy, nats")
        axes[0].set_xticks(BETAS, labels=[f"{beta:g}" for beta in BETAS])  # powers of ten would be set as formulas
        axes[0].set_xticks([], minor=True)
        axes[1].set(title="Optimum at equal KL", xlabel="KL, nats", ylabel="gold reward")
        axes[2].set(title="Optimum at equal KL", xlabel="KL, nats", ylabel="probability of the likeliest answer")
        axes[0].legend(fontsize=7.5, labelcolor=INK)

        for name, colour in zip(ARMS, COLOURS, strict=False):
            found = paths(root, name)
            for seed, (x, y) in enumerate(zip(found["kl"], found["gold.open"], strict=True)):
                axes[3].plot(x, y, color=colour, lw=0.9, marker=".", ms=3, label=name if seed == 0 else None)
        axes[3].set(title="PPO on its way, open prompts", xlabel="KL, nats per answer", ylabel="gold reward")
        axes[3].legend(fontsize=8, labelcolor=INK)
        views = (
            (axes[4], ("entropy", "unique.open", "unique.closed"), "PPO after 20 iterations: diversity"),
            (axes[5], ("words.open", "words.closed"), "PPO after 20 iterations: length"),
        )
        for ax, names, title in views:
            for place, (name, colour) in enumerate(zip(ARMS, COLOURS, strict=False)):
                centre, half = np.array([interval(ppo[name][measure]) for measure in names]).T
                ax.errorbar(
                    np.arange(len(names)) + 0.15 * (place - 1), centre, yerr=half, fmt="o", color=colour, label=name
                )
            ax.set(title=title, xticks=range(len(names)), xticklabels=names)
        return to_png(drawing)


def verdict(exact: dict[str, float], ppo: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    """Does the distribution of rewards move that of answers? For best-of-n, at equal beta, at equal KL, and in ARMS."""

    def ranged(name: str, laws: Iterable[str] = STRICT) -> float:
        centres = [exact_interval(exact, law, name)[0] for law in laws]
        return float(np.nanmax(centres) - np.nanmin(centres))

    def clear(name: str) -> bool:
        """Whether the paired difference of the two laws that lie furthest apart has an interval without 0."""
        ordered = sorted(STRICT, key=lambda law: exact_interval(exact, law, name)[0])
        low, high = ([exact[f"{seed}.{law}.{name}"] for seed in EXACT_SEEDS] for law in (ordered[0], ordered[-1]))
        centre, half = interval(np.array(high) - np.array(low))
        return centre - half > 0

    moved = {
        name: {
            measure: [round(v, 3) for v in difference(ppo, name, measure)]
            for measure in ppo[BASE]
            if abs(difference(ppo, name, measure)[0]) > difference(ppo, name, measure)[1]
        }
        for name in ARMS
        if name != BASE
    }
    of_policy = [m for found in moved.values() for m in found if not m.startswith("accuracy")]
    found = {
        "best_of_n_differs": max(ranged(f"bon{n}.gold") for n in BEST_OF) > 1e-9,
        "equal_beta_0.1": {name: round(ranged(f"beta0.1.{name}"), 3) for name in ("kl", "entropy", "gold", "unique")},
        "equal_beta_0.1_differs": clear("beta0.1.entropy"),
        "equal_kl_1": {name: round(ranged(f"kl1.{name}"), 3) for name in ("entropy", "gold", "top", "length.closed")},
        "equal_kl_1_gold_differs": clear("kl1.gold"),
        "ppo_differences": moved,
    }
    exactly = found["equal_beta_0.1_differs"] and not found["best_of_n_differs"]
    found["verdict"] = (
        (
            "yes for a KL-regularised policy at equal beta, less at equal KL, not at all for best-of-n"
            if exactly
            else "against the claim in the exact part"
        )
        + "; PPO: "
        + (f"differs in {', '.join(dict.fromkeys(of_policy))}" if of_policy else "no difference clear of the seeds")
    )
    return found


def main(root: Path) -> None:
    """Write ``figures/policy_effect.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    exact, ppo = tables(root)
    write_findings(root, "policy_effect", figure(root, exact, ppo), table_text(exact, ppo), verdict(exact, ppo))
