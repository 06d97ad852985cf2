"""Reward against the distance that a policy paid for it, √KL, as Gao et al. 2022 (arXiv 2210.10760) draw it."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from rlhf_jax.reports.curves import shown, thinned
from rlhf_jax.reports.plot import Dots, Line, Mark, Panel, Plot
from rlhf_jax.reports.records import Run, type_order
from rlhf_jax.reports.style import PROXY, colour_of, run_colour


def frontier_plot(run: Run) -> Plot | None:
    """Of one run: proxy and gold reward against √KL, a panel for each stage that trains a policy."""
    panels = []
    for stage in run.stages:
        marks: list[Mark] = []
        for name in _reward_names(run, stage):
            x, y, steps = path_of(run, stage, name)
            if len(x) < 2:
                continue
            kind = name.removeprefix("gold.")
            label = "proxy" if name == "reward.mean" else f"gold, {shown(kind)}"
            colour = PROXY if name == "reward.mean" else colour_of(kind, 0)
            told = [f"{label} {value:.3f}, step {step}" for value, step in zip(y, steps, strict=True)]
            marks.append(Line(*_smoothed(x, y), colour=colour, width=1.2, opacity=0.7))
            marks.append(Dots(x, y, "", colour, sizes=(14.0,), opacity=0.55, texts=told))
            marks.append(Dots(x[-1:], y[-1:], label, colour, sizes=(70.0,), texts=told[-1:]))
        if marks:
            panels.append(Panel(stage, "√KL (KL in nats per response)", "mean reward", marks, x_zero=True))
    return Plot("frontier", panels, columns=2) if panels else None


def frontiers_plot(runs: Mapping[str, Run]) -> Plot | None:
    """Of several: a panel for each stage and reward, in it the path of each run and where it ended."""
    wanted = dict.fromkeys((s, name) for run in runs.values() for s in run.stages for name in _reward_names(run, s))
    panels = []
    for stage, reward in wanted:
        marks: list[Mark] = []
        for place, (name, run) in enumerate(runs.items()):
            x, y, steps = path_of(run, stage, reward)
            if not len(x):
                continue
            colour = run_colour(place)
            told = [f"{name}: {value:.3f}, step {step}" for value, step in zip(y, steps, strict=True)]
            marks.append(Line(*_smoothed(x, y), colour=colour, width=1.2, opacity=0.7))
            marks.append(Dots(x[-1:], y[-1:], name, colour, sizes=(70.0,), texts=told[-1:]))
        if marks:
            what = "proxy reward" if reward == "reward.mean" else f"gold reward, {shown(reward.removeprefix('gold.'))}"
            label = "√KL (KL in nats per response)"
            panels.append(Panel(f"{stage}: {what}", label, f"mean {what}", marks, x_zero=True))
    return Plot("frontier", panels, columns=2) if panels else None


def path_of(
    run: Run, stage: str, reward: str
) -> tuple[Float[np.ndarray, "S"], Float[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """√KL, reward and step of each row of a stage that has both, in their order: of its own samples, or held out where
    those are more (a direct method samples only to be judged). An estimate of the KL below 0 counts as 0.
    """
    paths = []
    for prefix in ("", "validation."):
        of_kl, kl = run.series(stage, f"{prefix}kl")
        of_reward, values = run.series(stage, f"{prefix}{reward}")
        steps, left, right = np.intersect1d(of_kl, of_reward, return_indices=True)
        paths.append((np.sqrt(np.maximum(kl[left], 0.0)), values[right], steps))
    return max(paths, key=lambda path: len(path[2]))  # the first of equals


def _smoothed(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running means of many points: a policy's path and not its noise."""
    if len(x) < 20:
        return x, y
    kernel = np.full(len(x) // 10, 1 / (len(x) // 10))
    return thinned(np.convolve(x, kernel, "valid"), np.convolve(y, kernel, "valid"))


def _reward_names(run: Run, stage: str) -> list[str]:
    names = {name.removeprefix("validation.") for name in run.names(stage)}
    if "kl" not in names:
        return []
    gold = sorted((name for name in names if name.startswith("gold.")), key=lambda n: type_order(n[5:]))
    return [*gold, *(["reward.mean"] if "reward.mean" in names else [])]
