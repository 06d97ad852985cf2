"""Table, figure and verdict from the summaries of the settings. No JAX."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.findings import write_findings
from experiments.measures import interval
from experiments.partial_orders.sweep import MEMBERS, ORDERS, PROGRAM_SEEDS, PROGRAM_STEPS, SEEDS
from rlhf_jax.diagnostics.rewards import wasserstein_1
from rlhf_jax.metrics import read_json, read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, TYPE_COLOURS, figure_style, panels, to_png

TOLERANCE = 0.01  # of rewards, between what was trained and what theory says
TWO_TIERS = ("two", "two_uneven")
GRAPHS = ("chain", "star", "sparse")
Records = dict[str, tuple[dict[str, float], dict[str, dict[str, list[float]]]]]


def read_members(root: Path) -> Records:
    """Member -> (its summary, its rewards by order)."""
    return {name: (read_summary(root / name), read_json(root / name / "rewards.json")) for name in MEMBERS}


def read_program(root: Path, measure: str) -> dict[str, Float[np.ndarray, "seeds"]]:
    """Ties -> a value for each seed."""
    return {
        ties: np.array(
            [read_summary(root / f"program_{ties}_{PROGRAM_STEPS}_seed{seed}")[measure] for seed in PROGRAM_SEEDS]
        )
        for ties in ("kept", "broken")
    }


def by_seed(summary: dict[str, float], ties: str, measure: str) -> Float[np.ndarray, "seeds"]:
    """A measure of the shared network."""
    return np.array([summary[f"{ties}.{seed}.{measure}"] for seed in SEEDS])


def gap(summary: dict[str, float], order: str) -> float:
    """Largest difference between free rewards and the solver's, over starts; NaN where these are not unique."""
    if not summary[f"free.{order}.unique"]:
        return float("nan")
    return max(summary[f"free.{order}.{seed}.gap"] for seed in SEEDS)


def middle_of_three(name: str) -> float | None:
    """The middle tier of (2, 3, 3) in closed form: R / (1 - R) = (3 / 2)^p, p = 1 / (1 - g), 1 or 1 / (1 + g)."""
    member, parameters = MEMBERS[name]
    powers = {"power": 1 - parameters.get("gamma", 0.0), "log": 1.0, "negative_power": 1 + parameters.get("gamma", 0.0)}
    if member not in powers:
        return None
    odds = 1.5 ** (1 / powers[member])
    return odds / (1 + odds)


def table_text(members: Records, program: dict[str, dict[str, Float[np.ndarray, "seeds"]]]) -> str:
    """Free rewards against the solver; the shared network; the program."""
    lines = ["Largest difference between trained and solved rewards of eight, over five starts (—: not unique).", ""]
    lines += [f"| utility | {' | '.join(ORDERS)} | middle of three (closed form) |", "| --- |" + " --- |" * 8]
    for name, (summary, rewards) in members.items():
        cells = [f"{gap(summary, order):.4f}".replace("nan", "—") for order in ORDERS]
        exact = middle_of_three(name)
        middle = f"{rewards['three']['trained'][3]:.4f}" + (f" ({exact:.4f})" if exact else "")
        lines.append(f"| {name} | {' | '.join(cells)} | {middle} |")
    lines += ["", "One network for all types, one utility: mean ± half of the 95 % interval over seeds.", ""]
    heads = ("W1 open to closed, ties kept", "broken", "closed from 0 or 1, kept", "broken", "middle grade, kept")
    lines += [f"| utility | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name, (summary, _) in members.items():
        columns = [
            by_seed(summary, ties, measure)
            for measure, kinds in (
                ("w1_open_closed", ("kept", "broken")),
                ("closed_from_ends", ("kept", "broken")),
                ("graded_middle", ("kept",)),
            )
            for ties in kinds
        ]
        lines.append(f"| {name} | {' | '.join('{:.4f} ± {:.4f}'.format(*interval(column)) for column in columns)} |")
    lines += ["", "The program, embedded world, -x^-0.5 for all prompts.", ""]
    lines += [f"| ties | {' | '.join(program)} |", "| --- |" + " --- |" * len(program)]
    for ties in ("kept", "broken"):
        cells = ["{:.4f} ± {:.4f}".format(*interval(found[ties])) for found in program.values()]
        lines.append(f"| {ties} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def figure(members: Records, program: dict[str, Float[np.ndarray, "seeds"]]) -> bytes:
    """Rewards by order; distances with ties kept and broken; the program."""
    shown = ("power_0.8", "log", "negative_power_1", "log_sigmoid_0.25", "exponential_0.25")
    with figure_style():
        drawing, axes = panels(2, 3, height=3.6, width=13.0)
        for ax, order in zip(axes, ("full", "two", "three", "sparse"), strict=False):
            for place, name in enumerate(shown):
                colour = (*OTHER_COLOURS, TYPE_COLOURS["open"])[place]
                found = members[name][1][order]
                ax.plot(range(1, 9), found["solver"], color=colour, lw=1.2)
                ax.plot(range(1, 9), found["trained"], "o", ms=3.5, color=colour, label=name)
            ax.set(xlabel="response, best first", title=f"order: {order}", ylim=(-0.04, 1.04))
        axes[0].set(ylabel="reward (line: solver, dot: trained)")
        axes[0].legend(fontsize=7.5, labelcolor=INK)
        colours = {"kept": TYPE_COLOURS["closed"], "broken": NEUTRAL}
        for place, (summary, _) in enumerate(members.values()):
            for ties, shift in (("kept", -0.2), ("broken", 0.2)):
                mean, half = interval(by_seed(summary, ties, "w1_open_closed"))
                label = f"ties {ties}" if not place else None
                axes[4].barh(place + shift, mean, xerr=half, height=0.38, color=colours[ties], label=label)
        axes[4].set(yticks=range(len(members)), yticklabels=list(members))
        axes[4].set(xlabel="W1, open to closed", title="one network, one utility")
        axes[4].invert_yaxis()
        axes[4].legend(fontsize=8, labelcolor=INK)
        for place, ties in enumerate(("kept", "broken")):
            axes[5].bar(place, program[ties].mean(), color=colours[ties], width=0.6)
            axes[5].plot([place] * len(program[ties]), program[ties], "o", color=INK, ms=4)
        axes[5].set(xticks=(0, 1), xticklabels=("ties kept", "ties broken"), ylabel="W1, open to closed")
        axes[5].set(title="the program, -x^-0.5, by seed")
        return to_png(drawing)


def _rounded(values: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in values]


def verdict(members: Records, program: dict[str, dict[str, Float[np.ndarray, "seeds"]]]) -> dict[str, Any]:
    """Whether each part of the claim holds, and the figures behind it."""
    two_points = {"two": np.repeat([1.0, 0.0], (4, 4)), "two_uneven": np.repeat([1.0, 0.0], (2, 6))}
    two = max(
        float(np.abs(np.array(rewards[order][kind]) - two_points[order]).max())
        for _, rewards in members.values()
        for order in TWO_TIERS
        for kind in ("trained", "solver", "ideal")
    )
    exact = {name: middle_of_three(name) for name in members}
    three = max(
        abs(members[name][1]["three"][kind][3] - value)
        for name, value in exact.items()
        if value is not None
        for kind in ("trained", "ideal")
    )
    graphs = float(np.nanmax([gap(summary, order) for summary, _ in members.values() for order in GRAPHS]))
    separated, unseparated = [], []
    for name, (summary, _) in members.items():
        mean, half = interval(by_seed(summary, "kept", "w1_open_closed") - by_seed(summary, "broken", "w1_open_closed"))
        (separated if mean - half > 0.02 else unseparated).append(name)
    w1 = program["w1_open_closed"]
    gain = interval(w1["kept"] - w1["broken"])
    moved = {
        name: round(wasserstein_1(np.array(rewards["sparse"]["ideal"]), np.array(rewards["full"]["ideal"])), 3)
        for name, (summary, rewards) in members.items()
        if summary["free.sparse.unique"]
    }
    parts = {
        "two_tiers_give_two_points_under_every_utility": two < TOLERANCE,
        "three_tiers_follow_the_closed_forms": three < TOLERANCE,
        "graphs_follow_the_solver": graphs < TOLERANCE,
        "program_keeps_types_apart_by_ties_alone": gain[0] - gain[1] > 0,
    }
    text = "yes: with ties kept one utility gives closed prompts two points, whatever the utility"
    if not all(parts.values()):
        text = "in part; not held: " + ", ".join(name for name, holds in parts.items() if not holds)
    text += f"; open and closed prompts part under {len(separated)} of {len(members)} utilities"
    if unseparated:
        text += f" (not under {', '.join(unseparated)}, whose law of open prompts is near two points itself)"
    return {
        **parts,
        "two_tiers_largest_distance_from_0_and_1": round(two, 5),
        "three_tiers_largest_difference": round(three, 5),
        "graphs_largest_difference": round(graphs, 5),
        "program_w1_kept": _rounded(interval(w1["kept"])),
        "program_w1_broken": _rounded(interval(w1["broken"])),
        "program_kept_minus_broken": _rounded(gain),
        "separated": separated,
        "not_separated": unseparated,
        "w1_of_a_full_order_to_its_sparse_sample": moved,
        "verdict": text,
    }


def main(root: Path) -> None:
    """Write ``figures/partial_orders.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    members = read_members(root)
    measures = ("w1_open_closed", "pair_accuracy.open", "pair_accuracy.closed")
    program = {name: read_program(root, f"reward.{name}") for name in measures}
    write_findings(
        root,
        "partial_orders",
        figure(members, program["w1_open_closed"]),
        table_text(members, program),
        verdict(members, program),
    )
