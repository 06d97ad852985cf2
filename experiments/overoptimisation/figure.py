"""The figure: proxy and gold against the distance, theory on top; proxies side by side; KL of best-of-n. No JAX."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.measures import interval
from experiments.overoptimisation import exact, signals
from experiments.overoptimisation.bounds import Fitted, Record, runs_of
from experiments.overoptimisation.sweep import BEST_OF, CHECK_BETAS, SAMPLED_BEST_OF
from rlhf_jax.diagnostics.best_of_n import best_of_n_kl, best_of_n_kl_bound
from rlhf_jax.diagnostics.overoptimisation import Form
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, PROXY, TYPE_COLOURS, figure_style, panels, to_png

RL, BON = TYPE_COLOURS["open"], TYPE_COLOURS["closed"]
SHOWN = ("bag", "width_4", "width_16", "noise_25", "noise_40", "ensemble_worst")
COLOURS = (RL, BON, *OTHER_COLOURS)
DISTANCE = "√KL, √nats"


def draw(records: dict[str, Record], fits: dict[tuple[str, Form], Fitted]) -> bytes:
    """Six panels."""
    with figure_style():
        drawing, axes = panels(2, 3, height=3.7, width=15.0)
        _closed(axes[0], records["linear"], "gold", "gold, linear proxy", fits)
        _closed(axes[1], records["linear"], "proxy", "proxy, linear proxy", {})
        _paths(axes[2], records["linear"])
        _arms(axes[3], records, "optimum", "gold of the best policies, β ≥ 0.012, and of PPO")
        _arms(axes[4], records, "best_of_n", "gold of best-of-n, by proxy")
        _divergence(axes[5])
        return to_png(drawing)


def _closed(ax: Axes, record: Record, what: str, title: str, fits: dict[tuple[str, Form], Fitted]) -> None:
    """Closed forms as lines; PPO at its prices and sampled best-of-n as points with intervals of seeds."""
    theory = exact.linear_optimum(np.geomspace(0.02, 3.0, 200))
    ax.plot(np.sqrt(theory["kl"]), theory[what], color=RL, label="best policies, closed form")
    winners = exact.linear_best_of_n(BEST_OF)
    ax.plot(np.sqrt(winners["kl"].clip(0)), winners[what], color=BON, label="best-of-n, closed form")
    for beta in CHECK_BETAS:
        ends = [run["end"] for run in record["ppo"] if run["beta"] == beta]
        (x, wide), (y, high) = interval([np.sqrt(end["kl"]) for end in ends]), interval([end[what] for end in ends])
        ax.errorbar(
            x, y, xerr=wide, yerr=high, fmt="o", ms=4, color=RL, label="PPO" if beta == CHECK_BETAS[0] else None
        )
    by_seed = np.array([one[what] for one in record["sampled"]])
    found = np.array([interval(column) for column in by_seed.T])
    distance = np.sqrt(winners["kl"][: len(SAMPLED_BEST_OF)].clip(0))
    ax.errorbar(distance, found[:, 0], yerr=found[:, 1], fmt="s", ms=3.5, color=BON, label="best-of-n, sampled")
    if fits:
        start, grid = record["start"][0]["gold"], np.linspace(0.5, np.sqrt(theory["kl"].max()), 200)
        for form, colour in (("rl", RL), ("best_of_n", BON)):
            value = start + fits["linear", form].found.fit(grid)  # type: ignore[index]
            kept = value > -1.4
            ax.plot(grid[kept], value[kept], ":", lw=1.2, color=colour, label=f"fit, {form}")
    ax.set(title=title, xlabel=DISTANCE, ylabel=what)
    ax.legend(fontsize=7.5, labelcolor=INK)


def _paths(ax: Axes, record: Record) -> None:
    """Gold and proxy over iterations at three prices, bands of seeds."""
    for beta, colour in zip((CHECK_BETAS[0], 0.04, 0.1), (RL, PROXY, OTHER_COLOURS[0]), strict=True):
        runs = [run for run in record["ppo"] if run["beta"] == beta]
        gold = np.array(
            [
                [signals.smooth(np.array(run["curves"]["gold"]), i) for i in range(len(run["curves"]["gold"]))]
                for run in runs
            ]
        )
        found = np.array([interval(column) for column in gold.T])
        steps = np.arange(len(found))
        ax.plot(steps, found[:, 0], color=colour, label=f"β = {beta:g}")
        ax.fill_between(steps, found[:, 0] - found[:, 1], found[:, 0] + found[:, 1], color=colour, alpha=0.2, lw=0)
        end = exact.linear_optimum(np.array([beta]))["gold"][0]
        ax.plot([steps[-1] + 2], [end], "<", color=colour, ms=6)
    ax.set(title="gold while PPO learns; ◁ closed form", xlabel="iteration", ylabel="gold")
    ax.legend(fontsize=7.5, labelcolor=INK)


def _arms(ax: Axes, records: dict[str, Record], what: str, title: str) -> None:
    """Exact curves of each seed's proxy, and for the best policies PPO's own ends."""
    for name, colour in zip(SHOWN, COLOURS, strict=True):
        for place, curve in enumerate(records[name][what]):
            distance = np.sqrt(np.array(curve["kl"]).clip(0))
            ax.plot(distance, curve["gold"], color=colour, lw=1.0, alpha=0.8, label=name if place == 0 else None)
        if what == "optimum":
            ends = [run["end"] for own in runs_of(records[name]) for run in own]
            ax.plot(
                [np.sqrt(max(end["kl"], 0)) for end in ends], [end["gold"] for end in ends], "o", ms=3, color=colour
            )
    ax.set(title=title, xlabel=DISTANCE, ylabel="gold", ylim=(-1.0, 1.1))
    ax.legend(fontsize=7.5, labelcolor=INK)


def _divergence(ax: Axes) -> None:
    """The KL of best-of-n and its bound: the linear proxy, and a proxy that is right or wrong."""
    bound = [best_of_n_kl_bound(n) for n in BEST_OF]
    curves: list[tuple[str, Any, str]] = [
        ("log n − (n − 1)/n", bound, NEUTRAL),
        ("linear proxy, 17 rewards", exact.linear_best_of_n(BEST_OF)["kl"], BON),
    ]
    for share, colour in ((0.05, OTHER_COLOURS[0]), (0.55, PROXY)):
        coin = [best_of_n_kl(np.array([0.0, 1.0]), np.array([1.0 - share, share]), n) for n in BEST_OF]
        curves.append((f"right or wrong, right {share:.0%}", coin, colour))
    for label, values, colour in curves:
        ax.plot(BEST_OF, values, color=colour, label=label)
    ax.set(title="KL of best-of-n", xscale="log", xlabel="n", ylabel="nats")
    ax.set_xticks(BEST_OF[::4], labels=[f"{n:,}" for n in BEST_OF[::4]])
    ax.set_xticks([], minor=True)
    ax.legend(fontsize=7.5, labelcolor=INK)
