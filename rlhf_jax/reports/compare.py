"""The page that compares runs: their figures, settings, curves, reward distributions and completions."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlhf_jax.reports import completions
from rlhf_jax.reports.curves import shown, thinned, with_last
from rlhf_jax.reports.differences import differing, value_text
from rlhf_jax.reports.distributions import distribution_line
from rlhf_jax.reports.frontier import frontiers_plot
from rlhf_jax.reports.headline import headline, number
from rlhf_jax.reports.plot import Line, Mark, Panel, Plot
from rlhf_jax.reports.records import Run, type_order
from rlhf_jax.reports.run_page import commands
from rlhf_jax.reports.sections import Code, Link, Page, Section, Table
from rlhf_jax.reports.style import run_colour

# What is drawn over the steps, where runs have it; a dot at the end stands for what follows.
CURVES = (
    "validation.loss", "validation.pair_accuracy", "validation.w1_open_closed", "validation.collapse_index",
    "validation.auc.", "gold.", "reward.mean", "kl", "entropy", "length",
)  # fmt: skip


def compare_page(runs: Mapping[str, Run], links: Mapping[str, str], title: str) -> Page:
    """The page of runs by name, in their order; ``links``: names to the pages of those that have one."""
    return Page(title=title, sections=list(_sections(runs, links)), findings=_findings(runs))


def _sections(runs: Mapping[str, Run], links: Mapping[str, str]) -> Iterator[Section]:
    yield Section("Runs", tables=[_runs_table(runs, links)])
    figures = headline({name: run.summary for name, run in runs.items()})
    if figures:
        yield Section("Held-out figures", "A dash: the run has not that figure.", tables=figures)
    settings = differing([run.config for run in runs.values()])
    text = "The settings in which any two of the runs differ." if settings else "All runs have the same configuration."
    rows = [(key, *values) for key, values in settings.items()]
    yield Section("Configuration", text, tables=[Table(("setting", *runs), rows, code=(0,))] if rows else [])
    drawn = (
        Section("Curves", "The runs over each other, with the last value of each.", curves_plot(runs)),
        Section(
            "Reward against distance",
            "What each policy gained for its distance from the SFT policy; the last step is large.",
            frontiers_plot(runs),
        ),
        Section(
            "Reward distributions",
            "Share of held-out responses with at most a reward; dotted, the best rewards of their lists, where known.",
            distributions_plot(runs),
        ),
    )
    yield from (section for section in drawn if section.plot)
    answers = completions.of_runs(runs)
    if answers:
        yield Section("Completions", "The last answers to the same prompts.", completions=answers)
    environments = differing([run.environment for run in runs.values()])
    tables = [Table(("environment", *runs), [(key, *values) for key, values in environments.items()])]
    again = "\n".join(commands(run)[-1] for run in runs.values() if run.config)
    yield Section(
        "These runs",
        "What differs in their environments, and the commands that make them again." if environments else "",
        tables=tables if environments else [],
        codes=[Code(again)] if again else [],
    )


def curves_plot(runs: Mapping[str, Run]) -> Plot | None:
    """A panel for each stage and figure that runs wrote, in it a curve for each run."""
    panels = []
    for stage in dict.fromkeys(stage for run in runs.values() for stage in run.stages):
        names = {name for run in runs.values() for name in run.names(stage)}
        for name in _wanted(names):
            marks: list[Mark] = []
            for place, (title, run) in enumerate(runs.items()):
                steps, values = run.series(stage, name)
                if len(steps):
                    label = with_last(title, values)
                    marks.append(
                        Line(*thinned(steps, values), label, run_colour(place), dots=len(steps) < 30, width=1.4)
                    )
            told = name.removeprefix("validation.")
            panels.append(Panel(f"{stage}: {told}", "step", told, marks, whole_x=True))
    return Plot("curves", panels, columns=3) if panels else None


def distributions_plot(runs: Mapping[str, Run]) -> Plot | None:
    """A panel for each reward stage and prompt type, in it the distribution function of each run."""
    panels = []
    stages = dict.fromkeys(stage for run in runs.values() for stage in run.rewards)
    for stage in stages:
        kinds = sorted({kind for run in runs.values() for kind in run.rewards.get(stage, {})}, key=type_order)
        for kind in kinds:
            marks: list[Mark] = []
            for place, (title, run) in enumerate(runs.items()):
                lists = run.rewards.get(stage, {}).get(kind)
                if lists is None or not lists.values.size:
                    continue
                marks.append(distribution_line(lists.values, title, run_colour(place)))
                if lists.has_best:
                    best = lists.best[lists.mask]
                    marks.append(distribution_line(best, "", run_colour(place), dash="dot", width=1.0))
            if marks:
                title = f"{stage}: {shown(kind)}"
                panels.append(Panel(title, "reward", "share up to this reward", marks, y_range=(-0.02, 1.02)))
    return Plot("distributions", panels, columns=3) if panels else None


def _runs_table(runs: Mapping[str, Run], links: Mapping[str, str]) -> Table:
    rows = []
    for name, run in runs.items():
        last = "" if not run.status.get("stage") else f"{run.status['stage']}, step {run.status.get('step')}"
        seed = value_text(run.config["seed"]) if "seed" in run.config else "–"
        title = Link(name, links[name]) if name in links else name
        rows.append((title, str(run.status.get("state") or "–"), last, seed, str(run.workdir)))
    return Table(("run", "state", "where", "seed", "directory"), rows, numbers=(3,), code=(4,))


def _findings(runs: Mapping[str, Run]) -> Sequence[str]:
    """Of each figure that a reader looks for first, the best run."""
    found = []
    for name, best in (("reward.pair_accuracy", max), ("ppo.gold.open", max), ("ppo.gold.closed", max)):
        held = {title: run.summary[name] for title, run in runs.items() if np.isfinite(run.summary.get(name, np.nan))}
        if len(held) > 1:
            first = best(held, key=lambda title: held[title])
            others = [value for title, value in held.items() if title != first]
            found.append(f"{name}: {number(held[first])} in {first}, {number(max(others))} in the next best.")
    return found


def _wanted(names: set[str]) -> list[str]:
    found = []
    for known in CURVES:
        if known.endswith("."):
            found += sorted((n for n in names if n.startswith(known)), key=lambda n: type_order(n[len(known) :]))
        elif known in names:
            found.append(known)
    return found
