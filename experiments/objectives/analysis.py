"""Table, figure and verdict from the summaries of the runs. No JAX."""

import json
from pathlib import Path

import numpy as np

from experiments.findings import write_findings
from experiments.measures import interval
from experiments.objectives.sweep import CURVATURE, OBJECTIVES, SEEDS, STRENGTHS
from experiments.run import FINISHED
from rlhf_jax.metrics import read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, TYPE_COLOURS, figure_style, panels, to_png

COLUMNS = {
    "gold.open": "gold, open",
    "gold.closed": "gold, closed",
    "reward.mean": "proxy",
    "kl": "KL, nats",
    "length": "length, tokens",
}
COLOURS = (TYPE_COLOURS["open"], TYPE_COLOURS["closed"], *OTHER_COLOURS, "#7d5bbe", INK, NEUTRAL)
MARKERS = "osDv^P*Xd"
Found = dict[str, float]


def measures(folder: Path) -> Found:
    """What stands in the table of one run, and its seconds."""
    summary = read_summary(folder)
    stage = next(key.partition(".")[0] for key in summary if key.endswith(".steps"))
    found = {name: summary[f"{stage}.{name}"] for name in COLUMNS}
    found["before"] = summary.get(f"{stage}.reward.mean.before", float("nan"))
    found["seconds"] = json.loads((folder / FINISHED).read_text())["seconds"] if (folder / FINISHED).exists() else 0.0
    return found


def row_of(runs: list[Found]) -> list[str]:
    """Mean ± half of the 95 % interval of each column."""
    return ["{:.2f} ± {:.2f}".format(*interval([run[name] for run in runs])) for name in COLUMNS]


def before(root: Path, runs: list[Found]) -> list[str]:
    """The same of the SFT policy that all start from."""
    sft = [read_summary(root / f"parents.{seed}") for seed in SEEDS]
    values = {name: [one.get(f"sft.{name}", float("nan")) for one in sft] for name in COLUMNS}
    values["kl"] = [0.0] * len(SEEDS)
    values["reward.mean"] = [run["before"] for run in runs]
    return ["{:.2f} ± {:.2f}".format(*interval(values[name])) for name in COLUMNS]


def table_text(root: Path, objectives: dict[str, list[Found]], frontier: dict[str, list[list[Found]]]) -> str:
    """Every objective, then every divergence at every strength."""
    heads = [*COLUMNS.values(), "s"]
    lines = [
        f"Held-out prompts of the embedded world, {len(SEEDS)} seeds: mean ± half of the 95 % interval. "
        "Gold: true quality, 0 to 1. Proxy: the reward model's reward, 0 to 1. KL: k1 estimate to the SFT policy, nats "
        "per response. s: median wall seconds of a run.",
        "",
        f"| objective | config | {' | '.join(heads)} |",
        "| --- | --- |" + " --- |" * len(heads),
        f"| (SFT policy) | | {' | '.join(before(root, objectives['ppo']))} | |",
    ]
    for name, runs in objectives.items():
        seconds = f"{np.mean([run['seconds'] for run in runs]):.0f}"
        lines.append(f"| {name} | `{OBJECTIVES[name]}` | {' | '.join(row_of(runs))} | {seconds} |")
    lines += [
        "",
        "PPO under each divergence. Strength: coefficient x f''(1), reward per unit.",
        "",
        f"| divergence | strength | coefficient | {' | '.join(COLUMNS.values())} |",
        "| --- | --- | --- |" + " --- |" * len(COLUMNS),
    ]
    for name, points in frontier.items():
        for strength, runs in zip(STRENGTHS, points, strict=True):
            lines.append(f"| {name} | {strength:g} | {strength / CURVATURE[name]:g} | {' | '.join(row_of(runs))} |")
    return "\n".join([*lines, ""])


def gold(run: Found) -> float:
    """Mean over the two types of prompt, of which the held-out prompts have equally many."""
    return (run["gold.open"] + run["gold.closed"]) / 2


def figure(objectives: dict[str, list[Found]], frontier: dict[str, list[list[Found]]]) -> bytes:
    """Gold and proxy against KL: the frontier of each divergence; then every objective as one point."""
    with figure_style():
        drawing, axes = panels(1, 3, height=5.0, width=16.5)
        for (name, points), colour, marker in zip(frontier.items(), COLOURS, MARKERS, strict=True):
            kl = [np.mean([run["kl"] for run in runs]) for runs in points]
            for ax, measure in zip(axes, (gold, lambda run: run["reward.mean"]), strict=False):
                each = [[measure(run) for run in runs] for runs in points]
                ax.plot(kl, [np.mean(one) for one in each], color=colour, marker=marker, label=name, lw=1.2)
                ax.vlines(kl, [min(one) for one in each], [max(one) for one in each], color=colour, lw=0.8, alpha=0.5)
        axes[0].set(title="Gold by divergence (mean and range of seeds)", ylabel="gold", xlabel="KL to SFT, nats")
        axes[1].set(title="Proxy by divergence", ylabel="reward of the reward model", xlabel="KL to SFT, nats")
        axes[0].legend(fontsize=8, labelcolor=INK)
        for name, runs in objectives.items():
            x, y = np.mean([run["kl"] for run in runs]), np.mean([gold(run) for run in runs])
            axes[2].plot(x, y, marker="o", color=TYPE_COLOURS["open"])
            axes[2].annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7, color=INK)
        axes[2].set(title="Every objective (mean of seeds)", ylabel="gold", xlabel="KL to SFT, nats")
        return to_png(drawing)


def verdict(objectives: dict[str, list[Found]], frontier: dict[str, list[list[Found]]]) -> dict[str, object]:
    """Which objectives raise gold clearly, and the best point of each divergence."""
    base = {name: interval([gold(run) for run in runs]) for name, runs in objectives.items()}
    best = {}
    for name, points in frontier.items():
        at = int(np.argmax([np.mean([gold(run) for run in runs]) for runs in points]))
        centre, half = interval([gold(run) for run in points[at]])
        best[name] = {"strength": STRENGTHS[at], "gold": round(centre, 3), "half": round(half, 3)}
        best[name]["kl"] = round(float(np.mean([run["kl"] for run in points[at]])), 2)
    order = sorted(base, key=lambda name: -base[name][0])
    return {
        "gold": {name: [round(v, 3) for v in base[name]] for name in order},
        "best_point_of_divergence": best,
        "verdict": f"highest gold: {', '.join(order[:3])}; lowest: {', '.join(order[-3:])}; divergences at their best "
        f"strength lie between {min(b['gold'] for b in best.values())} and {max(b['gold'] for b in best.values())}",
    }


def main(root: Path) -> None:
    """Write ``figures/objectives.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    objectives = {name: [measures(root / f"{name}.{seed}") for seed in SEEDS] for name in OBJECTIVES}
    frontier = {
        name: [[measures(root / f"{name}-{place}.{seed}") for seed in SEEDS] for place in range(len(STRENGTHS))]
        for name in CURVATURE
    }
    write_findings(
        root,
        "objectives",
        figure(objectives, frontier),
        table_text(root, objectives, frontier),
        verdict(objectives, frontier),
    )
