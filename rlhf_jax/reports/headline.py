"""The numbers of a run in words and in tables."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rlhf_jax.diagnostics import distribution_summary, pair_accuracy_of_lists
from rlhf_jax.metrics import unit_of
from rlhf_jax.reports.records import Row, Run
from rlhf_jax.reports.sections import Table

# What a reader looks for first, without the stage.
MAIN = (
    "loss", "pair_accuracy", "collapse_index", "w1_open_closed", "ece", "label_accuracy", "score_rmse", "spread",
    "reward.mean", "kl", "length", "steps", "critique_verdict",
)  # fmt: skip
SHOWN = 3  # pairs of types of prompt in a sentence
FAMILIES = ("gold.", "auc.", "bayes.pair_accuracy")


def headline(summaries: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Figures of one or several runs, a column each, in the order of the stages: those to look at first, and all."""
    names = sorted({n for summary in summaries.values() for n in summary}, key=lambda n: (stage_place(n), n))
    first = [name for name in names if _is_main(name.partition(".")[2])]
    columns, numbers = ("figure", *summaries, "unit"), range(1, len(summaries) + 1)

    def rows(chosen: list[str]) -> list[tuple[str, ...]]:
        return [
            (name, *(number(one[name]) if name in one else "–" for one in summaries.values()), unit_of(name))
            for name in chosen
        ]

    if not first or len(first) == len(names):
        return [Table(columns, rows(names), numbers, code=(0,))] if names else []
    every = Table(columns, rows(names), numbers, code=(0,), folded=f"All {len(names)} figures")
    return [Table(columns, rows(first), numbers, code=(0,)), every]


def sentences(summary: Mapping[str, float], apart: Mapping[str, Sequence[str]] = MappingProxyType({})) -> list[str]:
    """What the summary says, for a reader who has not learnt its names; one sentence per finding. ``apart``: by stage,
    how far the rewards of its types of prompt lie apart.
    """
    found = []
    stages = sorted({name.partition(".")[0] for name in summary}, key=lambda stage: (stage_place(stage), stage))
    for stage in stages:
        accuracy = summary.get(f"{stage}.pair_accuracy")
        if accuracy is not None:
            best = summary.get(f"{stage}.bayes.pair_accuracy")
            limit = "" if best is None else f", the best that can be expected {100 * best:.1f} %"
            found.append(
                f"Reward model ({stage}): {100 * accuracy:.1f} % of the held-out pairs are put in the annotators' "
                f"order; chance is 50 %{limit}."
            )
        distance = summary.get(f"{stage}.w1_open_closed")
        if distance is not None:
            found.append(
                f"Reward model ({stage}): the rewards of open and of closed prompts lie {distance:.3f} apart "
                "(Wasserstein-1; 0 means one distribution for both)."
            )
        index = summary.get(f"{stage}.collapse_index")
        if index is not None:
            shown = apart.get(stage, ())[:SHOWN]
            measured = f" ({'; '.join(shown)})" if shown else ""
            found.append(
                f"Reward model ({stage}): collapse index {index:.2f}; at 1 the rewards of all types of prompt follow "
                f"one distribution, at 0 they lie at least as far apart as they should{measured}."
            )
        if stage == "sft":
            continue
        for kind in ("open", "closed"):
            before, after = summary.get(f"sft.gold.{kind}"), summary.get(f"{stage}.gold.{kind}")
            if before is not None and after is not None:
                found.append(
                    f"Policy ({stage}): the mean gold reward on {kind} prompts goes from {before:.2f} after SFT to "
                    f"{after:.2f} ({after - before:+.2f})."
                )
        if f"{stage}.kl" in summary:
            found.append(
                f"Policy ({stage}): it ends {summary[f'{stage}.kl']:.2f} nats per response away from the SFT policy."
            )
    return found


def reward_table(run: Run) -> Table | None:
    """One row per reward stage and prompt type: how well held-out lists are ordered, and how rewards are spread."""
    rows = []
    for stage, by_type in run.rewards.items():
        for kind, lists in by_type.items():
            if not lists.values.size:
                continue
            correct, pairs = pair_accuracy_of_lists(lists.rewards, lists.ranks, lists.mask)
            spread = distribution_summary(lists.values)
            accuracy = number(correct / pairs) if pairs else "–"
            figures = (f"{len(lists.rewards):,}", f"{pairs:,}", accuracy, number(spread["mean"]), number(spread["std"]))
            shares = [f"{100 * spread[name]:.0f} %" for name in ("share_low", "share_high")]
            rows.append((stage, kind or "all", *figures, *shares))
    if not rows:
        return None
    columns = ("stage", "prompts", "lists", "pairs", "accuracy", "mean reward", "std", "below 0.1", "above 0.9")
    return Table(columns, rows, numbers=range(2, len(columns)))


def number(value: float) -> str:
    """Three decimals for small sizes, one for large ones, none for counts above one, else three significant digits."""
    size = abs(value)
    if 2 <= size < 1e7 and float(value).is_integer():
        return f"{value:,.0f}"
    if size == 0 or 0.001 <= size < 100:
        return f"{value:.3f}"
    return f"{value:,.1f}" if 100 <= size < 1e7 else f"{value:.3g}"


def stage_place(name: str) -> int:
    """Sort key of stages and of names that begin with one: SFT, reward models, policies."""
    stage = name.partition(".")[0]
    return 0 if stage == "sft" else 1 if stage.startswith("reward") else 2


def taking_turns(rows: list[Row]) -> list[Row]:
    """The rows with the types of prompt taking turns, those of one type in their order."""
    seen: dict[str, int] = {}
    turns = []
    for place, row in enumerate(rows):
        kind = str(row.get("prompt_type") or "")
        seen[kind] = seen.get(kind, 0) + 1
        turns.append((seen[kind], place))
    return [rows[place] for _, place in sorted(turns)]


def _is_main(name: str) -> bool:
    return name in MAIN or name.startswith(FAMILIES)
