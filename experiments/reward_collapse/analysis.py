"""Figures, table and verdict from the run directories of the settings. No JAX."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.reward_collapse.sweep import COMMON, SEEDS, SOURCES, UTILITIES
from rlhf_jax.diagnostics.rewards import wasserstein_1
from rlhf_jax.metrics import read_json, read_jsonl, write_text_atomically
from rlhf_jax.reports.style import INK, NEUTRAL, colour_of, figure_style, panels, to_png

TYPES = ("open", "closed")
SPLITS = {"train": "training prompts", "validation": "held-out prompts"}
SIZE = 8
NEAR = 0.02  # of the best rewards, in reward; as all other bounds here
COLLAPSED = {"train": 0.01, "validation": 0.05}  # W1 of open and closed prompts under one utility is at most so much
APART = {"train": 0.15, "validation": 0.12}  # and under the prompt-aware pair at least so much
TITLES = {
    "linear": "x",
    "log": "log(x + 0.1)",
    "inverse": "-1 / (x + 0.1)",
    "log_sigmoid": "log sigmoid(4 x)",
    "prompt_aware": "closed: x; open: -1 / (x + 0.1)",
}


class Run(NamedTuple):
    """A setting's rewards, (list, rank) with the best response first, by (step, split, prompt type); its optima."""

    rewards: dict[tuple[int, str, str], Float[np.ndarray, "lists 8"]]
    predictions: dict[str, dict[str, Any]]

    @property
    def steps(self) -> list[int]:
        """The steps at which rewards were recorded."""
        return sorted({step for step, _, _ in self.rewards})


def read_run(folder: Path) -> Run | None:
    """The records of one setting; None if there are none, as where the texts were not at hand."""
    rows = read_jsonl(folder / "rewards" / "reward.jsonl")
    if not rows:
        return None
    lists: dict[tuple[int, str, str], dict[int, dict[int, float]]] = {}
    for row in rows:
        own = lists.setdefault((row["step"], row["split"], row["prompt_type"]), {})
        own.setdefault(row["list"], {})[row["rank"]] = row["reward"]
    rewards = {
        key: np.array([[each[rank] for rank in range(SIZE)] for each in own.values() if len(each) == SIZE])
        for key, own in lists.items()
    }
    return Run(rewards, read_json(folder / "predictions.json"))


def measures(run: Run, step: int) -> dict[str, float]:
    """``SPLIT.w1``: W1 of the pooled rewards of open and closed prompts. ``SPLIT.TYPE.off``: the largest difference of
    the mean reward at a rank from the best one of the utility as trained; ``.ideal_off``: without its shift.
    """
    found = {}
    for split in SPLITS:
        pooled = [run.rewards[step, split, kind].ravel() for kind in TYPES]
        found[f"{split}.w1"] = wasserstein_1(*pooled)
        for kind in TYPES:
            mean = run.rewards[step, split, kind].mean(axis=0)
            for name, target in (("off", "trained"), ("ideal_off", "ideal")):
                found[f"{split}.{kind}.{name}"] = float(np.abs(mean - run.predictions[kind][target]).max())
    return found


def read_all(root: Path) -> dict[tuple[str, str], list[Run]]:
    """(source, utility) -> a run for each seed, of those that have records."""
    found: dict[tuple[str, str], list[Run]] = {}
    for source in SOURCES:
        for name in UTILITIES:
            runs = [read_run(root / f"{source}_{name}_seed{seed}") for seed in SEEDS]
            if kept := [run for run in runs if run is not None]:
                found[source, name] = kept
    return found


def final(runs: list[Run]) -> dict[str, float]:
    """The measures at the last step, the worst over seeds: the largest, or of W1 under a pair of utilities the least.

    With one seed both are the seed's own.
    """
    each = [measures(run, run.steps[-1]) for run in runs]
    aware = runs[0].predictions["open"] != runs[0].predictions["closed"]
    return {name: (min if aware and name.endswith(".w1") else max)(found[name] for found in each) for name in each[0]}


def draw_source(source: str, runs: dict[tuple[str, str], list[Run]], split: str) -> bytes:
    """Rank against mean reward at the last step of the first seed, a panel for each utility, bands of one deviation."""
    with figure_style():
        drawing, axes = panels(2, 3, height=3.2, width=11.0)
        for axis, name in zip(axes, UTILITIES, strict=False):
            axis.set(title=TITLES[name], ylim=(-0.03, 1.03), xlabel="rank, best first")
            if (source, name) in runs:
                run = runs[source, name][0]
                _draw_profiles(axis, run, run.steps[-1], split)
        axes[5].axis("off")
        handles, labels = axes[4].get_legend_handles_labels()
        if handles:
            axes[5].legend(handles, labels, loc="center", labelcolor=INK)
        return to_png(drawing)


def _draw_profiles(axis: Any, run: Run, step: int, split: str) -> None:
    places = np.arange(1, SIZE + 1)
    for kind in TYPES:
        rewards = run.rewards[step, split, kind]
        mean, deviation, colour = rewards.mean(axis=0), rewards.std(axis=0), colour_of(kind)
        axis.fill_between(places, mean - deviation, mean + deviation, color=colour, alpha=0.18, lw=0)
        axis.plot(places, mean, "o-", color=colour, label=f"{kind} prompts")
        best = run.predictions[kind]
        axis.plot(places, best["trained"], "--", color=colour, lw=1.0, label=f"{kind}: best, as trained")
        axis.plot(places, best["ideal"], "-.", color=NEUTRAL, lw=0.8, label=f"{kind}: best, without shift")
        if best["limit"] is not None:
            axis.plot(places, best["limit"], ":", color=NEUTRAL, lw=1.2, label=f"{kind}: limit law")


def draw_steps(source: str, runs: dict[tuple[str, str], list[Run]]) -> bytes:
    """Rank against mean reward on training prompts at every recorded step, a row of panels for each utility."""
    names = [name for name in UTILITIES if (source, name) in runs]
    steps = runs[source, names[0]][0].steps
    with figure_style():
        drawing, axes = panels(len(names), len(steps), height=2.2, width=12.0)
        for place, axis in enumerate(axes):
            name, step = names[place // len(steps)], steps[place % len(steps)]
            _draw_profiles(axis, runs[source, name][0], step, "train")
            axis.set(ylim=(-0.03, 1.03), title=f"{name}, step {step}")
        return to_png(drawing)


def draw_convergence(runs: dict[tuple[str, str], list[Run]]) -> bytes:
    """Distance from the best rewards, and W1 of the two types, on training prompts over steps."""
    with figure_style():
        drawing, axes = panels(2, len(SOURCES), height=3.2, width=5.0 * len(SOURCES))
        for place, source in enumerate(SOURCES):
            for number, name in enumerate(UTILITIES):
                for run in runs.get((source, name), ())[:1]:
                    each = [measures(run, step) for step in run.steps]
                    off = [max(found[f"train.{kind}.off"] for kind in TYPES) for found in each]
                    colour = f"C{number}"
                    axes[place].semilogy(run.steps, off, "o-", color=colour, label=TITLES[name])
                    axes[len(SOURCES) + place].plot(
                        run.steps, [found["train.w1"] for found in each], "o-", color=colour
                    )
            axes[place].axhline(NEAR, color=NEUTRAL, lw=0.8)
            axes[place].set(title=f"{source}: distance from best rewards", ylim=(1e-4, 1))
            axes[place].yaxis.set_major_formatter("{x:g}")
            axes[len(SOURCES) + place].set(title=f"{source}: W1, open and closed", xlabel="step", ylim=(-0.01, None))
        axes[len(SOURCES) - 1].legend(labelcolor=INK, fontsize=7)
        return to_png(drawing)


def table_text(runs: dict[tuple[str, str], list[Run]]) -> str:
    """A row for each setting; ``off`` is the larger of the two types."""
    head = (
        "| source, utility | seeds | off, training | off without shift | off, held out | W1, training | W1, held out |"
    )
    lines = [head, "| --- |" + " --- |" * 6]
    for (source, name), own in runs.items():
        found = final(own)
        off = [max(found[f"{part}.{kind}.{end}"] for kind in TYPES) for part, end in _OFFS]
        cells = [f"{value:.4f}" for value in (*off, found["train.w1"], found["validation.w1"])]
        lines.append(f"| {source}, {TITLES[name]} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


_OFFS = (("train", "off"), ("train", "ideal_off"), ("validation", "off"))


def verdict(runs: dict[tuple[str, str], list[Run]]) -> dict[str, Any]:
    """Sentences on each source, and the scores that they are computed from."""
    found: dict[str, Any] = {"settings": {}, "verdict": []}
    for source in SOURCES:
        scores = {name: final(runs[source, name]) for name in UTILITIES if (source, name) in runs}
        found["settings"] |= {
            f"{source}_{name}": {key: round(value, 5) for key, value in own.items()} for name, own in scores.items()
        }
        if len(scores) < len(UTILITIES):
            missing = [name for name in UTILITIES if name not in scores]
            found["verdict"].append(f"{source}: no records of {', '.join(missing)}")
        common = {name: own for name, own in scores.items() if name in COMMON}
        if common:
            off = {name: max(own[f"train.{kind}.off"] for kind in TYPES) for name, own in common.items()}
            near = [name for name, value in off.items() if value <= NEAR]
            found["verdict"].append(
                f"{source}: of {len(common)} common utilities {len(near)} end within {NEAR} of their best rewards on "
                f"training prompts (largest distance {max(off.values()):.3f}, {max(off, key=lambda name: off[name])})"
            )
        for split, title in SPLITS.items():
            if common:
                worst = max(own[f"{split}.w1"] for own in common.values())
                holds = "collapse" if worst <= COLLAPSED[split] else "do not collapse as far as claimed"
                found["verdict"].append(
                    f"{source}, {title}: under one utility open and closed prompts {holds}, "
                    f"W1 at most {worst:.4f} (bound {COLLAPSED[split]})"
                )
            if "prompt_aware" in scores:
                w1 = scores["prompt_aware"][f"{split}.w1"]
                holds = "lie apart" if w1 >= APART[split] else "do not lie as far apart as claimed"
                found["verdict"].append(
                    f"{source}, {title}: under the prompt-aware pair they {holds}, W1 {w1:.4f} (bound {APART[split]})"
                )
    return found


def main(root: Path) -> dict[str, Any]:
    """Write ``figures/*.png``, ``table.md`` and ``verdict.json`` under ``root``; returns the verdict."""
    runs = read_all(root)
    figures = root / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        if any(own == source for own, _ in runs):
            for split in SPLITS:
                (figures / f"{source}_{split}.png").write_bytes(draw_source(source, runs, split))
            (figures / f"{source}_steps.png").write_bytes(draw_steps(source, runs))
    (figures / "convergence.png").write_bytes(draw_convergence(runs))
    found = verdict(runs)
    write_text_atomically(root / "table.md", table_text(runs))
    write_text_atomically(root / "verdict.json", json.dumps(found, indent=2) + "\n")
    return found
