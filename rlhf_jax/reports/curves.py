"""Curves over the steps of a run: losses, accuracies, and what becomes of the policy."""

import numpy as np
from jaxtyping import Float, Int

from rlhf_jax.console import shorten
from rlhf_jax.reports.plot import Level, Line, Mark, Note, Panel, Plot
from rlhf_jax.reports.records import Run, type_order
from rlhf_jax.reports.style import NEUTRAL, PROXY, colour_of

ACCURACY = "validation.pair_accuracy"
SMOOTH_FROM = 60
SHOWN_POINTS = 1000  # of longer curves the lowest and the highest point of so many stretches


def loss_plot(run: Run) -> Plot | None:
    """Training and held-out loss, one panel per stage that has a loss."""
    panels = []
    for stage in run.stages:
        if not {"loss", "validation.loss"} & set(run.names(stage)):
            continue
        steps, values = run.series(stage, "loss")
        many = len(steps) >= SMOOTH_FROM
        thin = thinned(steps, values)
        marks: list[Mark] = [Line(*thin, "train", NEUTRAL, width=0.9, opacity=0.6 if many else 1.0)]
        if many:
            marks.append(Line(*thinned(*running_mean(steps, values)), "train, running mean", NEUTRAL))
        steps, values = run.series(stage, "validation.loss")
        if len(steps):
            marks.append(Line(steps, values, with_last("held-out", values), dots=True))
        panels.append(Panel(stage, "step", f"loss ({_unit(stage)})", marks, whole_x=True))
    return Plot("loss", panels, columns=2 if len(panels) in (2, 4) else 3) if panels else None


def accuracy_plot(run: Run) -> Plot | None:
    """Held-out pair accuracy over the steps, one panel per reward stage, one line per prompt type."""
    panels = []
    for stage in run.stages:
        names = [name for name in run.names(stage) if name.startswith(ACCURACY)]
        if not names:
            continue
        marks: list[Mark] = [Level(0.5, colour=NEUTRAL)]
        lowest, first = 0.5, 0.0
        steps, values = run.series(stage, ACCURACY)
        if len(steps):
            marks.append(Line(steps, values, with_last("all", values), dash="dot", dots=True))
            lowest, first = min(lowest, np.nanmin(values)), steps[0]
        types = sorted((name.removeprefix(f"{ACCURACY}.") for name in names if name != ACCURACY), key=type_order)
        for place, kind in enumerate(types):
            steps, values = run.series(stage, f"{ACCURACY}.{kind}")
            marks.append(Line(steps, values, with_last(shown(kind), values), colour_of(kind, place), dots=True))
            lowest, first = min(lowest, np.nanmin(values)), steps[0]
        marks.append(Note(float(first), 0.5, "chance"))
        panels.append(
            Panel(stage, "step", "share of pairs in order", marks, y_range=(lowest - 0.04, 1.02), whole_x=True)
        )
    return Plot("pair_accuracy", panels, columns=2 if len(panels) in (2, 4) else 3) if panels else None


def policy_plot(run: Run) -> Plot | None:
    """Gold and proxy reward, KL and length by iteration, of each stage that trains a policy by its own samples."""
    panels = []
    for stage in run.stages:
        if "kl" not in run.names(stage):
            continue
        gold: list[Mark] = []
        names = [name for name in run.names(stage) if name.startswith("gold.")]
        for place, kind in enumerate(sorted((n.removeprefix("gold.") for n in names), key=type_order)):
            colour = colour_of(kind, place)
            steps, values = run.series(stage, f"gold.{kind}")
            gold.append(Line(*thinned(steps, values), with_last(shown(kind), values), colour))
            before = run.summary.get(f"sft.gold.{kind}")
            if before is not None:
                gold.append(Level(before, f"{shown(kind)}, SFT {before:.2f}", colour))
        if gold:
            panels.append(Panel(f"{stage}: gold reward", "iteration", "mean gold reward", gold, whole_x=True))
        for name, colour, title, label in (
            ("reward.mean", PROXY, "proxy reward", "mean proxy reward"),
            ("kl", "ink", "distance from the SFT policy", "KL (nats per response)"),
            ("length", "ink", "length", "tokens per response"),
            ("entropy", "ink", "entropy", "nats per token"),
        ):
            steps, values = run.series(stage, name)
            if len(steps):
                line = Line(*thinned(steps, values), colour=colour)
                panels.append(Panel(f"{stage}: {title}", "iteration", label, [line], y_zero=name == "kl", whole_x=True))
    return Plot("ppo", panels, columns=3, height=2.7) if panels else None


def running_mean(
    steps: Int[np.ndarray, "S"], values: Float[np.ndarray, "S"]
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Centred mean over a tenth of the points (two at least), of steps and values alike."""
    width = max(2, len(values) // 10)
    kernel = np.full(width, 1 / width)
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")


def thinned(x: np.ndarray, y: Float[np.ndarray, "S"]) -> tuple[np.ndarray, Float[np.ndarray, "M"]]:
    """A curve that looks the same with at most 2 x ``SHOWN_POINTS`` points: lowest and highest of each stretch."""
    if len(x) <= 2 * SHOWN_POINTS:
        return x, y
    kept = []
    for stretch in np.array_split(np.arange(len(x)), SHOWN_POINTS):
        held = np.where(np.isnan(y[stretch]), 0.0, y[stretch])
        kept += sorted({stretch[held.argmin()], stretch[held.argmax()]})
    return x[kept], y[kept]


def with_last(label: str, values: Float[np.ndarray, "S"]) -> str:
    """A legend entry that ends with the last value."""
    number = f"{values[-1]:.2f}".replace("-", "−")
    return f"{label} {number}"


def shown(kind: str) -> str:
    """A prompt type as figures call it."""
    return shorten(kind, 24) or "all prompts"


def _unit(stage: str) -> str:
    # A list loss is a mean utility, which may well be negative; text loss is a likelihood.
    if stage.startswith("reward"):
        return "negative mean utility"
    return "nats per token" if stage == "sft" else "per token"
