"""The numbers of a run in words and in tables."""

import dataclasses
from collections.abc import Mapping

from rlhf_jax.diagnostics import distribution_summary, pair_accuracy_of_lists
from rlhf_jax.metrics import unit_of
from rlhf_jax.reports.records import Row, Run

SAMPLES = 10
TEXT_LIMIT = 900


@dataclasses.dataclass(frozen=True)
class Headline:
    """One line of the headline table."""

    name: str
    value: str
    unit: str


def headline(summary: Mapping[str, float]) -> list[Headline]:
    """The summary in the order of the stages, with units."""
    names = sorted(summary, key=lambda name: (_stage_place(name), name))
    return [Headline(name, number(summary[name]), unit_of(name)) for name in names]


def sentences(summary: Mapping[str, float]) -> list[str]:
    """What the summary says, for a reader who has not learnt its names; one sentence per finding."""
    found = []
    stages = sorted({name.partition(".")[0] for name in summary}, key=lambda stage: (_stage_place(stage), stage))
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
            found.append(
                f"Reward model ({stage}): collapse index {index:.2f}; at 1 the rewards of all types of prompt follow "
                "one distribution, at 0 they lie as far apart as they should."
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


def reward_table(run: Run) -> list[dict[str, str]]:
    """One row per reward stage and prompt type: how well held-out lists are ordered, and how rewards are spread."""
    rows = []
    for stage, by_type in run.rewards.items():
        for kind, lists in by_type.items():
            if not lists.values.size:
                continue
            correct, pairs = pair_accuracy_of_lists(lists.rewards, lists.ranks, lists.mask)
            spread = distribution_summary(lists.values)
            rows.append(
                {
                    "stage": stage,
                    "prompts": kind or "all",
                    "lists": f"{len(lists.rewards):,}",
                    "pairs": f"{pairs:,}",
                    "accuracy": number(correct / pairs) if pairs else "–",
                    "mean": number(spread["mean"]),
                    "std": number(spread["std"]),
                    "low": f"{100 * spread['share_low']:.0f} %",
                    "high": f"{100 * spread['share_high']:.0f} %",
                }
            )
    return rows


def sample_rows(run: Run) -> list[dict[str, str]]:
    """Ten completions of the last stage that stored any, the types of prompt taking turns; long text is cut."""
    stored = [rows for rows in run.samples.values() if rows]
    return [_sample(row) for row in _taking_turns(stored[-1])[:SAMPLES]] if stored else []


def number(value: float) -> str:
    """Three decimals for everyday sizes, else three significant digits."""
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:,.3g}"


def _stage_place(name: str) -> int:
    stage = name.partition(".")[0]
    return 0 if stage == "sft" else 1 if stage.startswith("reward") else 2


def _taking_turns(rows: list[Row]) -> list[Row]:
    seen: dict[str, int] = {}
    turns = []
    for place, row in enumerate(rows):
        kind = str(row.get("prompt_type") or "")
        seen[kind] = seen.get(kind, 0) + 1
        turns.append((seen[kind], place))
    return [rows[place] for _, place in sorted(turns)]


def _sample(row: Row) -> dict[str, str]:
    return {
        "type": str(row.get("prompt_type") or ""),
        "prompt": _text(row.get("prompt")),
        "before": _text(row.get("before")),
        "after": _text(row.get("response")),
        "proxy": _score(row.get("proxy")),
        "gold": _score(row.get("gold")),
    }


def _text(value: object) -> str:
    text = "" if value is None else str(value).strip()
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1].rstrip() + "…"


def _score(value: float | str | None) -> str:
    return "–" if value is None else number(float(value))
