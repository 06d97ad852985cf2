"""The page of a sweep or an experiment: which points are best, how sure that is, and what the parameters do."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.diagnostics.ranking import behind
from rlhf_jax.metrics import read_json, read_metrics
from rlhf_jax.reports.headline import headline, number
from rlhf_jax.reports.importance import LEAST, importances
from rlhf_jax.reports.run_page import pretty
from rlhf_jax.reports.sections import Code, Link, Page, Section, Table
from rlhf_jax.reports.sweep_plots import (
    CURVES,
    curves_plot,
    importance_plot,
    intervals_plot,
    parallel_plot,
    trade_plot,
)
from rlhf_jax.reports.trials import Point, Sweep, Trial, mean_and_half_width

SHOWN_POINTS = 24  # of the table of all figures
INTERVALS = (
    "Mean over the seeds of a point with its 95 % interval by Student's t (none for a single seed), and each seed."
)
PARALLEL = "A line for each point: its parameters and what it reached; the brighter the better. Hover to read one."
IMPORTANCE = (
    "Share of the variance over all trials that each parameter explains by itself (functional ANOVA by Optuna, random "
    "forests with seed 0). What is missing to 1 is due to interactions and to seeds. It speaks of the region that was "
    "tried, and no more."
)
NO_OPTUNA = "Importance of parameters needs Optuna and scikit-learn: pip install 'rlhf_jax[sweep]'."
FRONTIER = "Each trial's end, seeds small, the mean of a point large."


def sweep_page(sweep: Sweep, links: Mapping[str, str]) -> Page:
    """The page; ``links``: names of trials to their own pages, of those that have one."""
    states = Counter(trial.state or "recorded" for trial in sweep.trials)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return Page(
        title=sweep.folder.resolve().name,
        sections=list(_sections(sweep, links)),
        findings=_findings(sweep),
        subtitle=f"{len(sweep.points)} points, {len(sweep.trials)} trials: {told}",
    )


def _sections(sweep: Sweep, links: Mapping[str, str]) -> Iterator[Section]:
    if sweep.objectives:
        goal = "; then ".join(f"{one.metric} ({one.direction})" for one in sweep.objectives[:1])
        yield Section("Ranking", f"Points, best first by {goal}. n: trials that ended.", tables=[ranking_table(sweep)])
        yield from _figures(sweep)
    else:
        yield Section("Ranking", "No run has a figure that runs are usually ranked by: name one with --metric=NAME.")
    means = {point.name: mean_summary(point) for point in sweep.points[:SHOWN_POINTS]}
    if any(means.values()):
        text = "Means over the trials of each point that ended" + (
            f"; the first {SHOWN_POINTS} points." if len(sweep.points) > SHOWN_POINTS else "."
        )
        yield Section("Figures", text, tables=headline(means))
    yield Section("Trials", tables=[_trials_table(sweep, links)])
    yield _made_by(sweep)


def _figures(sweep: Sweep) -> Iterator[Section]:
    first = sweep.objectives[0]
    drawn = [Section("Intervals over seeds", INTERVALS, intervals_plot(sweep))]
    drawn.append(Section("Parallel coordinates", PARALLEL, parallel_plot(sweep)))
    try:
        found = {one.metric: importances(sweep, one) for one in sweep.objectives}
        drawn.append(Section("Importance of parameters", IMPORTANCE, importance_plot(found)))
        missing = ""
    except ImportError:
        missing = NO_OPTUNA
    if len(sweep.objectives) > 1:
        second = sweep.objectives[1]
        plot = trade_plot(sweep, first.metric, second.metric, "", first.metric)
        drawn.append(Section("One objective against the other", "Means of points large, seeds small.", plot))
    stage = first.metric.partition(".")[0]
    reward = first.metric if f"{stage}.kl" != first.metric else f"{stage}.reward.mean"
    plot = trade_plot(sweep, f"{stage}.kl", reward, "", "√KL (KL in nats per response)", root=True)
    drawn.append(Section("Reward against distance", FRONTIER, plot))
    best = [trial for point in sweep.ranked(first)[:CURVES] for trial in point.trials]
    rows = {trial.name: read_metrics(trial.folder) for trial in best}
    curves = f"The best {CURVES} points at most: mean over their trials, and the range between them."
    drawn.append(Section("Curves", curves, curves_plot(sweep, first, rows)))
    for section in drawn:
        if section.plot:
            yield section
        elif section.title == "Importance of parameters" and sweep.parameters:
            yield Section(
                section.title, f"Fewer than {LEAST} trials with a value, or none that differ: nothing to say."
            )
    if missing and sweep.parameters:
        yield Section("Importance of parameters", missing)


def ranking_table(sweep: Sweep) -> Table:
    """One row a point, best first by the first objective: its parameters, and its objectives with their intervals."""
    first = sweep.objectives[0]
    columns = ["place", "point", *sweep.parameters, "n", first.metric, "± (95 %)", "behind the first"]
    for one in sweep.objectives[1:]:
        columns += [one.metric, "± (95 %)"]
    rows, ranked = [], sweep.ranked(first)
    for place, point in enumerate(ranked, start=1):
        counted = f"{len(point.values(first.metric))} of {len(point.trials)}"
        apart = behind(first, point.by_seed(first.metric), ranked[0].by_seed(first.metric)) if place > 1 else None
        row = [str(place), point.name, *(_parameter(point, name) for name in sweep.parameters), counted]
        row += [*_mean_columns(point, first.metric), _interval(*apart) if apart else "–"]
        for one in sweep.objectives[1:]:
            row += _mean_columns(point, one.metric)
        rows.append(row)
    return Table(columns, rows, numbers=[0, *range(2 + len(sweep.parameters), len(columns))])


def mean_summary(point: Point) -> dict[str, float]:
    """Each figure of the summaries, as the mean over the trials that have it."""
    names = sorted({name for trial in point.trials for name in trial.summary})
    return {name: float(values.mean()) for name in names if (values := point.values(name)).size}


def _mean_columns(point: Point, metric: str) -> list[str]:
    values = point.values(metric)
    mean, half = mean_and_half_width(values) if values.size else (None, None)
    return ["–" if value is None else number(value) for value in (mean, half)]


def _trials_table(sweep: Sweep, links: Mapping[str, str]) -> Table:
    columns = ["trial", "point", "seed", "state", *(one.metric for one in sweep.objectives), "reason"]
    rows = []
    for trial in sweep.trials:
        values = [_value(trial, one.metric) for one in sweep.objectives]
        name = Link(trial.name, links[trial.name]) if trial.name in links else trial.name
        seed = "–" if trial.seed is None else str(trial.seed)
        rows.append([name, trial.point, seed, trial.state or "–", *values, trial.reason])
    return Table(columns, rows, numbers=[2, *range(4, 4 + len(sweep.objectives))])


def _made_by(sweep: Sweep) -> Section:
    text = "Every number comes from the summary.json, metrics.jsonl and STATUS.json of the trials' folders."
    if not sweep.record:
        return Section("This folder", text, codes=list(_analysis(sweep.folder)))
    record = {name: value for name, value in sweep.record.items() if name != "config"}
    codes = [Code(pretty(record))]
    if sweep.record.get("config"):
        codes.append(Code(pretty(sweep.record["config"]), "Configuration that every trial starts from"))
    return Section("This sweep", text, codes=codes)


def _analysis(folder: Path) -> Iterator[Code]:
    """What an experiment's own analysis has left beside its settings."""
    verdict = read_json(folder / "verdict.json")
    if verdict:
        yield Code(pretty(verdict), "Verdict of the experiment's analysis (verdict.json)")
    if (folder / "table.md").is_file():
        yield Code((folder / "table.md").read_text(encoding="utf-8"), "Its table (table.md)")


def _findings(sweep: Sweep) -> list[str]:
    found = []
    for one in sweep.objectives:
        ranked = [point for point in sweep.ranked(one) if point.values(one.metric).size]
        if len(ranked) < 2:
            continue
        best, second = ranked[:2]
        told = f"{one.metric}: best is {best.name} with {_interval(*mean_and_half_width(best.values(one.metric)))}"
        apart = behind(one, second.by_seed(one.metric), best.by_seed(one.metric))
        if apart is None or apart[1] is None:
            told += f", next {second.name}; of fewer than two seeds that both have nothing can be said about chance."
        else:
            sure = "more than chance at 95 %" if apart[0] > apart[1] else "which may be chance"
            told += f", next {second.name}, {_interval(*apart)} behind over the seeds that both have, {sure}."
        found.append(told)
    failed = [trial for trial in sweep.trials if trial.state == "failed"]
    if failed:
        found.append(f"{len(failed)} of {len(sweep.trials)} trials failed; their reasons are in the table of trials.")
    return found


def _interval(mean: float, half: float | None) -> str:
    return number(mean) if half is None else f"{number(mean)} ± {number(half)}"


def _parameter(point: Point, name: str) -> str:
    value: Any = point.parameters.get(name)
    return "–" if name not in point.parameters else shown_value(value)


def shown_value(value: Any) -> str:
    """A parameter's value in a table."""
    return f"{value:.6g}" if isinstance(value, float) else str(value) if isinstance(value, str) else pretty(value)


def _value(trial: Trial, metric: str) -> str:
    value = trial.value(metric)
    return "–" if value != value else number(value)
