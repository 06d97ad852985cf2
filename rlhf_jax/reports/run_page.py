"""The page of one run."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_jax.console import shorten
from rlhf_jax.reports import completions
from rlhf_jax.reports.collapse import collapse_findings
from rlhf_jax.reports.curves import accuracy_plot, loss_plot, policy_plot
from rlhf_jax.reports.distributions import rewards_plot
from rlhf_jax.reports.frontier import frontier_plot
from rlhf_jax.reports.headline import headline, reward_table, sentences
from rlhf_jax.reports.records import Run
from rlhf_jax.reports.reward_model import (
    evaluation_readings,
    reading_table,
    rewardbench_table,
    robustness_table,
    stage_readings,
    trust_plot,
)
from rlhf_jax.reports.sections import Code, Page, Section, Table

LOSS = (
    "Training loss of each logged step (thin, with a running mean where there are many), and loss on held-out data "
    "(dots)."
)
ACCURACY = (
    "Share of held-out pairs that the reward model puts in the annotators' order, by type of prompt. Tied responses "
    "are not compared."
)
REWARDS = (
    "Rewards of held-out responses. Left: how they are spread, with the Wasserstein-1 distance W₁ between the two "
    "types of prompt (0: one and the same distribution). Middle: the same as distribution functions; dashed, the best"
    " rewards that the utility has for these lists, dotted the law that best rewards tend to as lists grow. Right: "
    "mean reward at each rank, with one standard deviation either side; dashed, the best rewards."
)
TRUST = (
    "Held-out pairs. Left: how often the predicted winner of a pair won, by the probability that the model gives it, "
    "σ(reward gap / T), at T = 1 and at the T that fits these pairs best; dots grow with their share of pairs, and on "
    "the dashed line the probabilities are right. Middle: pairs far apart in rank should be easier. Right: pairs whose "
    "better response is the shorter, about as long, or the longer, and how many those are; without length bias the "
    "bars are equal."
)
POLICY = (
    "Each iteration's own samples. Gold is the true reward, proxy the reward model's. KL is against the SFT policy; "
    "dashed, the SFT policy's own gold."
)
FRONTIER = (
    "What the policy gained for its distance from the SFT policy, one point a logged step, the last one large. Where "
    "the proxy still rises and gold falls, the reward model is over-optimised. An estimate of the KL below 0 is drawn"
    " at 0."
)
COMPLETIONS = (
    "The same held-out prompts at each evaluation, one sampled answer each. Proxy is the reward model's score, gold "
    "the true reward."
)
PAID = " Coloured parts were paid on their own: green above 0, orange below, with what they were paid."
PACKAGES = (
    "rlhf_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "tokenizers",
    "numpy",
)


def run_page(run: Run) -> Page:
    """Every section that the run has records for."""
    lines, apart = collapse_findings(run)
    warnings = [f"Warning: {line}." for line in lines]
    return Page(
        title=run.workdir.resolve().name,
        sections=list(_sections(run)),
        findings=[*warnings, *sentences(run.summary, apart)],
        state=str(run.status.get("state") or ""),
        subtitle=subtitle(run.status),
    )


def _sections(run: Run) -> Iterator[Section]:
    if run.summary:
        yield Section("Held-out figures", tables=headline({"value": run.summary}))
    rewards = reward_table(run)
    stages, evaluations = stage_readings(run), evaluation_readings(run)
    drawn = (
        Section("Loss", LOSS, loss_plot(run)),
        Section("Reward model: accuracy", ACCURACY, accuracy_plot(run)),
        Section("Reward model: distribution", REWARDS, rewards_plot(run), [rewards] if rewards else []),
        Section(
            "Reward model: calibration, rank distance, length",
            TRUST,
            trust_plot("reward_model", stages),
            _tables("stage", stages),
        ),
        Section(
            "Reward model: evaluations",
            "The same on what rlhf-jax evaluate was asked to score.",
            trust_plot("evaluation", evaluations),
            [*_tables("evaluation", evaluations), *_benchmarks(run)],
        ),
        Section("Policy", POLICY, policy_plot(run)),
        Section("Reward against distance", FRONTIER, frontier_plot(run)),
    )
    yield from (section for section in drawn if section.plot)
    found = completions.of_run(run)
    if found:
        paid = any(a and any(p.reward is not None for p in a.pieces) for _, _, row in found.rows for a in row)
        yield Section("Completions", COMPLETIONS + (PAID if paid else ""), completions=found)
    yield this_run(run)


def this_run(run: Run) -> Section:
    """Configuration, environment, and the commands that make the run again."""
    codes = []
    if run.config:
        codes.append(Code("\n".join(commands(run))))
        codes.append(Code(pretty(run.config), "Configuration"))
    tables = []
    if run.environment:
        tables.append(
            Table(
                ("environment", ""),
                [(name, line(value)) for name, value in run.environment.items()],
                folded="Environment",
            )
        )
    text = (
        "Every number comes from metrics.jsonl, summary.json, rewards/, optimum/, evaluation/ and samples/ of the run "
        "directory."
    )
    if run.config:
        text += " The same configuration again, with the same versions:"
    return Section("This run", text, tables=tables, codes=codes)


def commands(run: Run) -> list[str]:
    """Shell commands that install the run's versions and run its configuration again, beside it; the runs that it needs
    stand in comments above.
    """
    pins = [f"{name}=={run.environment[name]}" for name in PACKAGES[1:] if name in run.environment]
    found = [f"python -m pip install {shlex.join(pins)}"] if pins else []
    config = shlex.quote(f"--config={run.workdir / 'config.json'}")
    again = shlex.quote(f"--workdir={run.workdir}-again")
    parents = run.config.get("parents")
    for key, value in (parents if isinstance(parents, dict) else {}).items():
        if value:  # on one line, whatever it is: what follows a comment is run
            found.append(shorten(f"# needs {value} (config.parents.{key})", 400))
    return [*found, f"python -m rlhf_jax {config} {again}"]


def subtitle(status: Mapping[str, Any]) -> str:
    """Where the run stands, when that was written, and why it stopped if it failed."""
    parts = []
    if status.get("stage"):
        parts.append(f"{status['stage']}, step {status.get('step')}")
    if status.get("time") is not None:
        parts.append(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(status["time"])))
    if status.get("reason"):
        parts.append(str(status["reason"]))
    return " · ".join(parts)


def pretty(value: object) -> str:
    """A configuration as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def line(value: Any) -> str:
    """A value of a record on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tables(first: str, readings: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    columns = {
        "name": first, "pairs": "pairs", "accuracy": "accuracy", "tau": "Kendall τ", "ndcg": "NDCG",
        "log_loss": "log-loss, T = 1", "ece": "ECE", "temperature": "best T", "log_loss_calibrated": "log-loss at it",
        "ece_calibrated": "ECE at it", "correlation": "length corr.", "longer_wins": "longer wins",
        "longer_is_better": "longer is better",
    }  # fmt: skip
    return _table(columns, reading_table(readings), 1)


def _benchmarks(run: Run) -> list[Table]:
    changes = {
        "name": "evaluation", "change": "change of the text", "shift": "mean |shift|, std", "drift": "drift, std",
        "flips": "orders turned round",
    }  # fmt: skip
    scores = {"name": "evaluation", "part": "benchmark", "score": "score"}
    found = _table(changes, robustness_table(run.evaluations), 2)
    return [*found, *_table(scores, rewardbench_table(run.evaluations), 2)]


def _table(columns: Mapping[str, str], rows: Sequence[Mapping[str, str]], texts: int) -> list[Table]:
    """A table of rows by column, the first ``texts`` columns words and the others numbers; none without rows."""
    if not rows:
        return []
    numbers = range(texts, len(columns))
    return [Table(list(columns.values()), [[row[name] for name in columns] for row in rows], numbers=numbers)]
