"""Table, figure and verdict from the summaries, courses and texts of the runs. No JAX."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.findings import verdict_of, write_findings
from experiments.measures import interval
from experiments.reward_misspecification.sweep import ARMS, EVERY, EXPERT_SHARES, SEEDS
from rlhf_jax.metrics import read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, PROXY, TYPE_COLOURS, figure_style, panels, to_png

GOLD_COLOUR, CHECKED_COLOUR = TYPE_COLOURS["closed"], TYPE_COLOURS["open"]
BASE, STOPPED = "annotators", "early stop"
EXPLOITED = ("annotators", "coded", "more_lists", "ensemble")  # arms that keep the annotators' blind spot
FOLLOWED = ("annotators", "beta_0.3", "beta_1")  # arms whose policy is compared with the optimum of its proxy
REDUCED = ("beta_1", "experts_0.2", "counter_0.2")
# Bounds of the README, set before the run.
RISE, FALL, CITED, RIGHT, PEAK, NEAR = 1.0, 0.2, 2.5, 0.95, 0.1, 0.15
Run = dict[str, Any]


def read_run(folder: Path) -> Run:
    """Measures at the end, over iterations (``curves``), of the exact optima (``frontier``), and texts."""
    run: Run = {"end": read_summary(folder)}
    return run | {name: json.loads((folder / f"{name}.json").read_text()) for name in ("curves", "frontier", "texts")}


def read_all(root: Path) -> dict[str, list[Run]]:
    """Arm -> its runs by seed."""
    return {arm: [read_run(root / f"{arm}.{seed}") for seed in SEEDS] for arm in ARMS}


def stopped(run: Run) -> float:
    """Gold on unchecked prompts where the experts' probe of the run is best, the first of equals."""
    return float(run["curves"]["unchecked.gold"][int(np.argmax(run["curves"]["probe"]))])


def ends(runs: dict[str, list[Run]]) -> dict[str, list[float]]:
    """Gold on unchecked prompts that each arm ends with, by seed, the early stop among them."""
    found = {arm: [run["end"]["unchecked.gold"] for run in own] for arm, own in runs.items()}
    return found | {STOPPED: [stopped(run) for run in runs[BASE]]}


def gains(runs: dict[str, list[Run]]) -> dict[str, list[float]]:
    """What each arm has more of it than its SFT policy."""
    before = [run["end"]["before.unchecked.gold"] for run in runs[BASE]]
    return {arm: [float(v - b) for v, b in zip(own, before, strict=True)] for arm, own in ends(runs).items()}


def checks(runs: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    """The bounds of the README: whether each holds at every seed, and the figures by seed."""
    base, gain = runs[BASE], gains(runs)

    def change(name: str) -> list[float]:
        return [run["end"][name] - run["end"][f"before.{name}"] for run in base]

    peaks = [max(run["curves"]["unchecked.gold"]) - run["end"]["before.unchecked.gold"] for run in base]
    proxy, sources, checked = (
        change("unchecked.proxy"),
        [run["end"]["unchecked.sources"] for run in base],
        [run["end"]["checked.gold"] for run in base],
    )
    away = {arm: [run["end"]["unchecked.tv"] for run in runs[arm]] for arm in FOLLOWED}
    better = {
        f"{share:g}": [
            c["end"]["unchecked.gold"] - e["end"]["unchecked.gold"]
            for c, e in zip(runs[f"counter_{share:g}"], runs[f"experts_{share:g}"], strict=True)
        ]
        for share in EXPERT_SHARES
    }
    same = ("more_lists", "ensemble")
    exploited = min(proxy) >= RISE and max(gain[BASE]) <= -FALL and min(sources) >= CITED and min(checked) >= RIGHT
    return {
        "exploited": {
            "holds": exploited,
            "figures": {"proxy": proxy, "gold": gain[BASE], "sources": sources, "gold, checked": checked},
        },
        "rises_first": {"holds": min(peaks) >= PEAK, "figures": {"highest gold": peaks}},
        "not_the_reward_model": {"holds": max(gain["coded"]) <= -FALL, "figures": {"coded": gain["coded"]}},
        "at_the_optimum": {"holds": max(max(own) for own in away.values()) <= NEAR, "figures": away},
        "same_feedback_does_not_help": {
            "holds": max(max(gain[arm]) for arm in same) <= -FALL,
            "figures": {arm: gain[arm] for arm in same},
        },
        "reduced": {
            "holds": min(min(gain[arm]) for arm in REDUCED) >= 0 and min(gain[STOPPED]) >= PEAK,
            "figures": {arm: gain[arm] for arm in (*REDUCED, STOPPED)},
        },
        "counter_examples_beat_expert_labels": {
            "holds": min(min(own) for own in better.values()) > 0,
            "figures": better,
        },
    }


def table_text(runs: dict[str, list[Run]]) -> str:
    """Every arm at the end, then what the policy wrote."""
    columns = {
        "gold, end": lambda run: run["end"]["unchecked.gold"],
        "gold, highest": lambda run: max(run["curves"]["unchecked.gold"]),
        "proxy, gained": lambda run: run["end"]["unchecked.proxy"] - run["end"]["before.unchecked.proxy"],
        "sources": lambda run: run["end"]["unchecked.sources"],
        "KL": lambda run: run["end"]["unchecked.kl"],
        "TV from optimum": lambda run: run["end"]["unchecked.tv"],
        "gold of optimum": lambda run: run["end"]["optimum.unchecked.gold"],
        "highest of any beta": lambda run: max(run["frontier"]["unchecked.gold"]),
        "gold, checked": lambda run: run["end"]["checked.gold"],
    }
    before = interval([run["end"]["before.unchecked.gold"] for run in runs[BASE]])
    lines = [
        f"Unchecked prompts unless it says checked, {len(SEEDS)} seeds: mean ± half of the 95 % interval. "
        "Gold of the SFT policy {:.3f} ± {:.3f}; of the early stop {:.3f} ± {:.3f}.".format(
            *before, *interval(ends(runs)[STOPPED])
        ),
        "",
        f"| arm | {' | '.join(columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    for arm, own in runs.items():
        cells = ["{:.3f} ± {:.3f}".format(*interval([read(run) for run in own])) for read in columns.values()]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += [
        "",
        "Gold by seed.",
        "",
        "| arm | at the end | of the exact optimum of its proxy |",
        "| --- | --- | --- |",
    ]
    for arm, own in runs.items():
        cells = [
            ", ".join(f"{run['end'][name]:.2f}" for run in own) for name in ("unchecked.gold", "optimum.unchecked.gold")
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines.append(f"| {STOPPED} | {', '.join(f'{value:.2f}' for value in ends(runs)[STOPPED])} | |")
    lines += ["", f"What `{BASE}` writes, seed {SEEDS[0]}: drawn, not chosen.", "", "| prompt | before | after |"]
    lines.append("| --- | --- | --- |")
    told = runs[BASE][0]["texts"]
    for kind in ("checked", "unchecked"):
        for before_, after in zip(*([row for row in told[when] if row["kind"] == kind] for when in told), strict=True):
            cells = [f"{row['asked']}: {row['response']} (gold {row['gold']:.0f})" for row in (before_, after)]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def figure(runs: dict[str, list[Run]]) -> bytes:
    """Above: the loophole. Below: the exact optimum, and what reduces it."""
    base = runs[BASE]
    iterations = EVERY * np.arange(len(base[0]["curves"]["probe"]))
    with figure_style():
        drawing, axes = panels(2, 3, height=3.5, width=13.5)
        for ax, kind in ((axes[0], "unchecked"), (axes[1], "checked")):
            for seed, run in enumerate(base):
                for name, colour in (("proxy", PROXY), ("gold", GOLD_COLOUR)):
                    label = f"{name}{', in deviations' * (name == 'proxy')}" if seed == 0 else None
                    ax.plot(iterations, run["curves"][f"{kind}.{name}"], color=colour, lw=1.3, label=label)
            ax.set(title=f"PPO on annotators, {kind} prompts", xlabel="iterations of PPO", ylabel="gold, proxy")
        axes[0].legend(fontsize=8, labelcolor=INK)
        for seed, run in enumerate(base):
            for kind, colour in (("unchecked", GOLD_COLOUR), ("checked", CHECKED_COLOUR)):
                label = kind if seed == 0 else None
                axes[2].plot(iterations, run["curves"][f"{kind}.sources"], color=colour, lw=1.3, label=label)
        axes[2].set(title="What the loophole is", xlabel="iterations of PPO", ylabel="sources in a response")
        axes[2].legend(fontsize=8, labelcolor=INK)

        for arm, colour in ((BASE, GOLD_COLOUR), ("counter_0.2", OTHER_COLOURS[0])):
            for seed, run in enumerate(runs[arm]):
                course, exact = run["curves"], run["frontier"]
                marks = {"color": colour, "lw": 1.1}
                own = f"PPO, {arm}" if seed == 0 else None
                axes[3].plot(course["unchecked.kl"], course["unchecked.gold"], marker=".", label=own, **marks)
                best = "exact optima of its proxy" if seed == 0 else None
                axes[3].plot(exact["unchecked.kl"], exact["unchecked.gold"], ls=":", label=best, **marks)
        furthest = 0.5 + max(max(run["curves"]["unchecked.kl"]) for arm in (BASE, "counter_0.2") for run in runs[arm])
        axes[3].set(title="Gold by distance", xlabel="KL, nats per answer", ylabel="gold, unchecked")
        axes[3].set(xlim=(-0.1, furthest), ylim=(-0.2, 1.03))
        axes[3].legend(fontsize=7.5, labelcolor=INK, loc="lower left")

        shown = (BASE, "ensemble", "beta_1", "experts_0.2", "counter_0.2")
        colours = (GOLD_COLOUR, NEUTRAL, CHECKED_COLOUR, OTHER_COLOURS[1], OTHER_COLOURS[0])
        for arm, colour in zip(shown, colours, strict=True):
            each = np.array([run["curves"]["unchecked.gold"] for run in runs[arm]])
            axes[4].plot(iterations, each.mean(axis=0), color=colour, label=arm, lw=1.4)
            axes[4].fill_between(iterations, each.min(axis=0), each.max(axis=0), color=colour, alpha=0.12, lw=0)
        axes[4].set(title="Gold, mean and range of seeds", xlabel="iterations of PPO", ylabel="gold, unchecked")
        axes[4].set_ylim(0, 1.35)  # room for the legend
        axes[4].legend(fontsize=7.5, labelcolor=INK, loc="upper right", ncol=2)

        found = ends(runs)
        names = list(reversed(found))
        for place, arm in enumerate(names):
            axes[5].plot(found[arm], [place] * len(found[arm]), "o", color=GOLD_COLOUR, ms=4, alpha=0.8)
        before = np.mean([run["end"]["before.unchecked.gold"] for run in base])
        axes[5].axvline(before, color=NEUTRAL, lw=1, ls="--")
        axes[5].text(before + 0.01, -0.4, "SFT", fontsize=8, color=NEUTRAL)
        axes[5].set(title="Gold at the end, each seed", xlabel="gold, unchecked", xlim=(0, 1.02))
        axes[5].set_yticks(range(len(names)), labels=names, fontsize=8)
        return to_png(drawing)


def verdict(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Each bound, and in words which hold."""
    return verdict_of(checks(runs))


def main(root: Path) -> None:
    """Write ``figures/reward_misspecification.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    runs = read_all(root)
    write_findings(root, "reward_misspecification", figure(runs), table_text(runs), verdict(runs))
