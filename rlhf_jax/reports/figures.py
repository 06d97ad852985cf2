"""The figures of a run, each drawn from its records; a figure without data is not drawn."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf_jax.console import shorten
from rlhf_jax.diagnostics import rank_profile, wasserstein_1
from rlhf_jax.reports.records import RewardLists, Run, type_order
from rlhf_jax.reports.reward_model import Reading, draw_readings, evaluation_readings, stage_readings
from rlhf_jax.reports.style import INK, NEUTRAL, PROXY, colour_of, figure_style, panels, to_png, to_svg

ACCURACY = "validation.pair_accuracy"
BINS = 25
SMOOTH_FROM = 60
TRUST = (
    "Held-out pairs. Left: how often the predicted winner of a pair won, by the probability that the model gives it, "
    "σ(reward gap / T), at T = 1 and at the T that fits these pairs best; dots grow with their share of pairs, and on "
    "the dashed line the probabilities are right. Middle: pairs far apart in rank should be easier. Right: pairs whose "
    "better response is the shorter, about as long, or the longer, and how many those are; without length bias the "
    "bars are equal."
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """One finished figure: its file name, heading and caption, as an SVG element and as a PNG file."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


def draw_pictures(run: Run) -> list[Picture]:
    """Every figure the run has data for, in the order of the page."""
    plans: list[tuple[str, str, str, Callable[[Run], Figure | None]]] = [
        (
            "loss",
            "Loss",
            "Training loss of each logged step (thin, with a running mean where there are many), and loss on held-out "
            "data (dots).",
            loss_figure,
        ),
        (
            "pair_accuracy",
            "Reward model: accuracy",
            "Share of held-out pairs that the reward model puts in the annotators' order, by type of prompt. Tied "
            "responses are not compared.",
            accuracy_figure,
        ),
        (
            "rewards",
            "Reward model: distribution",
            "Rewards of held-out responses. Left: how they are spread, with the Wasserstein-1 distance W₁ between the "
            "two types of prompt (0: one and the same distribution). Right: mean reward at each "
            "rank, with one standard deviation either side; dashed, the best rewards of the utility that the type is "
            "trained under.",
            rewards_figure,
        ),
        (
            "reward_model",
            "Reward model: calibration, rank distance, length",
            TRUST,
            lambda run: _trust_figure(stage_readings(run)),
        ),
        (
            "evaluation",
            "Reward model: evaluations",
            "The same on what rlhf-jax evaluate was asked to score.",
            lambda run: _trust_figure(evaluation_readings(run)),
        ),
        (
            "ppo",
            "PPO",
            "Each iteration's own samples. Gold is the true reward, proxy the reward model's. KL is against the SFT "
            "policy.",
            policy_figure,
        ),
    ]
    pictures = []
    for name, title, caption, draw in plans:
        with figure_style():
            figure = draw(run)
            if figure is not None:
                pictures.append(Picture(name, title, caption, to_svg(figure), to_png(figure)))
    return pictures


def loss_figure(run: Run) -> Figure | None:
    """Training and held-out loss, one panel per stage that has a loss."""
    stages = [s for s in run.stages if {"loss", "validation.loss"} & set(run.names(s))]
    if not stages:
        return None
    figure, axes = _grid(len(stages))
    for axis, stage in zip(axes, stages, strict=False):
        steps, values = run.series(stage, "loss")
        many = len(steps) >= SMOOTH_FROM
        axis.plot(steps, values, color=NEUTRAL, linewidth=0.9, alpha=0.6 if many else 1, label="train")
        if many:
            axis.plot(*_running_mean(steps, values), color=NEUTRAL, label="train, running mean")
        steps, values = run.series(stage, "validation.loss")
        if len(steps):
            axis.plot(steps, values, color=INK, marker="o", label=_last("held-out", values))
        # A list loss is a mean utility, which may well be negative; text loss is a likelihood.
        unit = "negative mean utility" if stage.startswith("reward") else "nats per token"
        _dress(axis, stage, "step", f"loss ({unit})")
        axis.legend()
    return figure


def accuracy_figure(run: Run) -> Figure | None:
    """Held-out pair accuracy over the steps, one panel per reward stage, one line per prompt type."""
    stages = [s for s in run.stages if any(name.startswith(ACCURACY) for name in run.names(s))]
    if not stages:
        return None
    figure, axes = _grid(len(stages))
    for axis, stage in zip(axes, stages, strict=False):
        names = [name for name in run.names(stage) if name.startswith(f"{ACCURACY}.")]
        types = sorted((name.removeprefix(f"{ACCURACY}.") for name in names), key=type_order)
        lowest = 0.5
        steps, values = run.series(stage, ACCURACY)
        if len(steps):
            axis.plot(steps, values, color=INK, marker="o", linestyle=":", label=_last("all", values))
            lowest = min(lowest, np.nanmin(values))
        for place, kind in enumerate(types):
            steps, values = run.series(stage, f"{ACCURACY}.{kind}")
            axis.plot(steps, values, color=colour_of(kind, place), marker="o", label=_last(_shown(kind), values))
            lowest = min(lowest, np.nanmin(values))
        axis.axhline(0.5, color=NEUTRAL, linewidth=1, linestyle="--")
        axis.annotate("chance", (0.01, 0.505), xycoords=("axes fraction", "data"), color=INK, fontsize=9)
        axis.set_ylim(lowest - 0.04, 1.02)
        _dress(axis, stage, "step", "share of pairs in order")
        axis.legend(loc="lower right", borderaxespad=1.2)
    return figure


def rewards_figure(run: Run) -> Figure | None:
    """Reward histogram and mean reward by rank, one row of panels per reward stage."""
    stages = {stage: lists for stage, lists in run.rewards.items() if lists}
    return draw_rewards(stages) if stages else None


def draw_rewards(stages: Mapping[str, Mapping[str, RewardLists]]) -> Figure:
    """The same of any lists by name and prompt type; at least one of each."""
    figure, axes = panels(len(stages), 2)
    for row, (stage, lists) in enumerate(stages.items()):
        _draw_histogram(axes[2 * row], stage, lists)
        _draw_ranks(axes[2 * row + 1], lists)
    for axis in axes[2::2]:
        axis.sharey(axes[0])  # shares of responses compare between stages; the rewards' scales may not
    axes[0].autoscale(axis="y")
    return figure


def policy_figure(run: Run) -> Figure | None:
    """Gold and proxy reward, KL and length by iteration; one row of panels per stage that has a KL."""
    stages = [stage for stage in run.stages if "kl" in run.names(stage)]
    if not stages:
        return None
    figure, axes = panels(2 * len(stages), 2, height=2.7)
    for row, stage in enumerate(stages):
        gold, proxy, kl, length = axes[4 * row : 4 * row + 4]
        names = [name for name in run.names(stage) if name.startswith("gold.")]
        for place, kind in enumerate(sorted((n.removeprefix("gold.") for n in names), key=type_order)):
            colour = colour_of(kind, place)
            steps, values = run.series(stage, f"gold.{kind}")
            gold.plot(steps, values, color=colour, label=_last(_shown(kind), values))
            before = run.summary.get(f"sft.gold.{kind}")
            if before is not None:
                gold.axhline(
                    before, color=colour, linewidth=1, linestyle="--", label=f"{_shown(kind)}, SFT {before:.2f}"
                )
        _dress(gold, f"{stage}: gold reward", "iteration", "mean gold reward")
        if names:
            low, high = gold.get_ylim()
            gold.set_ylim(low - 0.3 * (high - low), high)  # room for the legend
            gold.legend(loc="lower right", ncols=2)
        for axis, name, colour, title, label in (
            (proxy, "reward.mean", PROXY, "proxy reward", "mean proxy reward"),
            (kl, "kl", INK, "distance from the SFT policy", "KL (nats per response)"),
            (length, "length", INK, "length", "tokens per response"),
        ):
            axis.plot(*run.series(stage, name), color=colour)
            _dress(axis, f"{stage}: {title}", "iteration", label)
        kl.set_ylim(bottom=min(0.0, kl.get_ylim()[0]))
    return figure


def _trust_figure(readings: Mapping[str, Reading]) -> Figure | None:
    return draw_readings(readings) if readings else None


def _draw_histogram(axis: Axes, stage: str, lists: Mapping[str, RewardLists]) -> None:
    values = {kind: one.values for kind, one in lists.items()}
    pooled = np.concatenate(list(values.values()))
    bounded = not pooled.size or (pooled.min() >= 0 and pooled.max() <= 1)
    low, high = (0.0, 1.0) if bounded else (pooled.min(), pooled.max())
    edges = np.linspace(low, high, BINS + 1)
    for place, (kind, rewards) in enumerate(values.items()):
        heights = np.histogram(rewards, edges)[0] / max(1, len(rewards))
        colour = colour_of(kind, place)
        axis.stairs(heights, edges, fill=True, color=colour, alpha=0.25)
        axis.stairs(heights, edges, color=colour, linewidth=1.6, label=_shown(kind))
    title = stage
    if len(values) == 2 and all(len(rewards) for rewards in values.values()):
        first, second = values
        title = f"{stage}: W₁({_shown(first)}, {_shown(second)}) = {wasserstein_1(values[first], values[second]):.3f}"
    _dress(axis, title, "reward", "share of responses")
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.legend()


def _draw_ranks(axis: Axes, lists: Mapping[str, RewardLists]) -> None:
    for place, (kind, one) in enumerate(lists.items()):
        means, _ = rank_profile(one.rewards, one.ranks, one.mask)
        squares, _ = rank_profile(one.rewards**2, one.ranks, one.mask)
        spread = np.sqrt(np.maximum(squares - means**2, 0))
        held = np.flatnonzero(np.isfinite(means))
        colour = colour_of(kind, place)
        axis.plot(held, means[held], color=colour, marker="o", label=_shown(kind))
        axis.fill_between(held, (means - spread)[held], (means + spread)[held], color=colour, alpha=0.15, linewidth=0)
        if not np.isnan(one.best[one.mask]).any():
            best, _ = rank_profile(one.best, one.ranks, one.mask)
            axis.plot(held, best[held], color=colour, linestyle="--", linewidth=1.2, label=f"{_shown(kind)}, best")
    _dress(axis, "mean reward by rank", "rank (0 = best)", "mean reward")
    axis.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axis.legend()


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure for ``count`` equal panels, at most three in a row, the surplus left blank."""
    columns = min(count, 3) if count != 4 else 2
    rows = -(-count // columns)
    figure, axes = panels(rows, columns, width=10.0 if columns > 1 else 7.0)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes


def _dress(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(shorten(title, 70))
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _running_mean(
    steps: Int[np.ndarray, "S"], values: Float[np.ndarray, "S"]
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """Centred mean over a tenth of the points, of steps and values alike."""
    width = max(2, len(values) // 10)
    kernel = np.full(width, 1 / width)
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")


def _shown(kind: str) -> str:
    return shorten(kind, 24) or "all prompts"


def _last(label: str, values: Float[np.ndarray, "S"]) -> str:
    """A legend entry that ends with the last value."""
    number = f"{values[-1]:.2f}".replace("-", "−")
    return f"{label} {number}"
