"""How the rewards of a reward model are spread, with what theory says of the utility that it was trained under.

Theory comes from the records: the best rewards of each list (``best`` of ``rewards/STAGE.jsonl``), and the law that
they tend to as lists grow (``limit`` of ``optimum/STAGE.json``): mass ``atom`` at each of 0 and 1, the rest
Beta(``a``, ``b``).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from rlhf_jax.diagnostics import rank_profile, wasserstein_1
from rlhf_jax.reports.curves import shown
from rlhf_jax.reports.plot import Band, Dash, Histogram, Line, Mark, Panel, Plot
from rlhf_jax.reports.records import RewardLists, Run
from rlhf_jax.reports.style import colour_of

BINS = 25
GRID = 201  # points of a law's distribution function

Optimum = Mapping[str, Any]  # of one stage, by prompt type; see docs/run_directory.md


def rewards_plot(run: Run) -> Plot | None:
    """Histogram, distribution function and mean reward by rank; a row of panels per reward stage."""
    stages = {stage: lists for stage, lists in run.rewards.items() if lists}
    return plot_rewards(stages, run.optimum) if stages else None


def plot_rewards(stages: Mapping[str, Mapping[str, RewardLists]], optimum: Mapping[str, Optimum] | None = None) -> Plot:
    """The same of any lists by name and prompt type; at least one of each."""
    panels = []
    tallest = max(map(_tallest, stages.values()))
    for stage, lists in stages.items():
        panels += [
            _histogram_panel(stage, lists, tallest),
            _distribution_panel(lists, (optimum or {}).get(stage, {})),
            _rank_panel(lists),
        ]
    return Plot("rewards", panels, columns=3)


def limit_distribution(limit: Mapping[str, float], x: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """P(reward <= x) under a limit law, x in [0, 1]: mass ``atom`` at 0 and at 1, the rest Beta(``a``, ``b``)."""
    # Imported here: it takes a while, and few pages need it.
    from scipy.stats import beta

    atom = limit["atom"]
    between = (1 - 2 * atom) * beta.cdf(x, limit["a"], limit["b"]) if atom < 0.5 else np.zeros_like(x)
    return np.where(x < 0, 0.0, np.where(x >= 1, 1.0, atom + between))


def distribution_line(values: Float[np.ndarray, "M"], label: str, colour: str, **how: Any) -> Line:
    """The distribution function of values, as stairs that begin at 0; ``how`` as for ``plot.Line``."""
    # Rewards are told to float32's digits; so many different ones hardly differ to the eye.
    found, counts = np.unique(np.round(values, 3), return_counts=True)
    if not found.size:
        return Line([], [], label, colour)
    x, y = np.concatenate([found[:1], found]), np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return Line(x, y, label, colour, width=how.pop("width", 1.4), stairs=True, **how)


def _shares(values: Float[np.ndarray, "M"], edges: Float[np.ndarray, "E"]) -> Float[np.ndarray, "B"]:
    return np.histogram(values, edges)[0] / max(1, len(values))


def _edges(lists: Mapping[str, RewardLists]) -> Float[np.ndarray, "E"]:
    pooled = np.concatenate([one.values for one in lists.values()])
    bounded = not pooled.size or (pooled.min() >= 0 and pooled.max() <= 1)
    return np.linspace(0.0, 1.0, BINS + 1) if bounded else np.linspace(pooled.min(), pooled.max(), BINS + 1)


def _tallest(lists: Mapping[str, RewardLists]) -> float:
    return max(float(_shares(one.values, _edges(lists)).max()) for one in lists.values())


def _histogram_panel(stage: str, lists: Mapping[str, RewardLists], tallest: float) -> Panel:
    values, edges = {kind: one.values for kind, one in lists.items()}, _edges(lists)
    marks = [
        Histogram(edges, _shares(rewards, edges), shown(kind), colour_of(kind, place))
        for place, (kind, rewards) in enumerate(values.items())
    ]
    title = stage
    if len(values) == 2 and all(len(rewards) for rewards in values.values()):
        first, second = values
        title = f"{stage}: W₁({shown(first)}, {shown(second)}) = {wasserstein_1(values[first], values[second]):.3f}"
    # Shares of responses compare between stages; the rewards' scales may not.
    return Panel(title, "reward", "share of responses", marks, y_range=(0.0, 1.05 * tallest or 1.0))


def _distribution_panel(lists: Mapping[str, RewardLists], optimum: Optimum) -> Panel:
    marks: list[Mark] = []
    theory: dict[str, Dash] = {}  # what is drawn of it, and how
    for place, (kind, one) in enumerate(lists.items()):
        colour = colour_of(kind, place)
        marks.append(distribution_line(one.values, shown(kind), colour))
        if one.has_best:
            theory["best rewards of these lists"] = "dash"
            marks.append(distribution_line(one.best[one.mask], "", colour, dash="dash"))
        limit = (optimum.get(kind) or {}).get("limit")
        if limit:
            theory["their limit law"] = "dot"
            x = np.linspace(0.0, 1.0, GRID)
            marks.append(Line(x, limit_distribution(limit, x), "", colour, dash="dot", width=1.2))
    marks += [Line((), (), label, dash=dash, width=1.2) for label, dash in theory.items()]  # for the legend
    return Panel("distribution, with theory", "reward", "share up to this reward", marks, y_range=(-0.02, 1.02))


def _rank_panel(lists: Mapping[str, RewardLists]) -> Panel:
    marks: list[Mark] = []
    for place, (kind, one) in enumerate(lists.items()):
        means, _ = rank_profile(one.rewards, one.ranks, one.mask)
        squares, _ = rank_profile(one.rewards**2, one.ranks, one.mask)
        spread = np.sqrt(np.maximum(squares - means**2, 0))
        held = np.flatnonzero(np.isfinite(means))
        colour = colour_of(kind, place)
        marks.append(Band(held, (means - spread)[held], (means + spread)[held], colour))
        marks.append(Line(held, means[held], shown(kind), colour, dots=True))
        if one.has_best:
            best, _ = rank_profile(one.best, one.ranks, one.mask)
            marks.append(Line(held, best[held], f"{shown(kind)}, best", colour, dash="dash", width=1.2))
    return Panel("mean reward by rank", "rank (0 = best)", "mean reward", marks, whole_x=True)
