"""Published data sets of ranked or scored answers: UltraFeedback, Nectar, HelpSteer3, and NeMo-RL's own format."""

from collections.abc import Mapping
from typing import Any

from rlhf_jax.data.readers.checks import (
    BadRow,
    Row,
    filled,
    listed,
    messages,
    number,
    optional_text,
    table,
    text,
    whole,
)
from rlhf_jax.data.readers.dialogue import ASSISTANT, last_turns, prompt_of, render
from rlhf_jax.data.readers.formats.common import Found, Settings, ranked_list
from rlhf_jax.data.records import Record, Response

EMPTY = "empty response text"
UNRATED = "N/A"  # UltraFeedback's word where an aspect does not apply


def ultrafeedback(row: Row, settings: Settings) -> Found:
    """``{"instruction", "completions": [{"response", "model", "fine-grained_score", "overall_score", "annotations",
    "critique"}]}``.

    The score is the fine-grained one, else the mean of the aspects' ratings, else the overall one, which is wrong for
    a share of the rows of early releases and on a scale of its own: no row may mix it with the others.
    """
    prompt, _ = prompt_of(row.get("instruction"), "instruction", settings.template)
    responses, scales = [], set()
    for place, item in enumerate(listed(row, "completions")):
        field = f"completions[{place}]"
        completion = table(item, field)
        score, scale = _score(completion, field)
        scales.add(scale)
        responses.append(
            Response(
                text(completion, "response", f"{field}.response", EMPTY),
                score=score,
                source=optional_text(completion, "model", f"{field}.model"),
                critique=optional_text(completion, "critique", f"{field}.critique"),
            )
        )
    if len(scales) > 1:
        raise BadRow("completions: some have no score but overall_score, whose scale is not that of the others")
    return ranked_list(prompt, responses, "completions", settings.tie_margin)


def nectar(row: Row, settings: Settings) -> Found:
    """``{"prompt": "\\n\\nHuman: ...\\n\\nAssistant: ", "answers": [{"answer", "model", "rank"}]}``, 1 the best."""
    prompt = text(row, "prompt")
    if not prompt.rstrip().endswith(ASSISTANT.strip()):
        raise BadRow('prompt: does not end with "Assistant:"')
    responses = []
    for place, item in enumerate(listed(row, "answers")):
        field = f"answers[{place}]"
        answer = table(item, field)
        rank, source = whole(answer.get("rank"), f"{field}.rank"), optional_text(answer, "model", f"{field}.model")
        responses.append(Response(text(answer, "answer", f"{field}.answer", EMPTY), rank, source=source))
    return ranked_list(prompt, responses, "answers")


def helpsteer3(row: Row, settings: Settings) -> Found:
    """``{"context": messages, "response1", "response2", "overall_preference", "individual_preference": [{"score",
    "feedback1", "feedback2"}], "domain"}``.

    A preference is in -3..3, negative where response 1 is better; its size is the margin. Under
    ``annotators`` "apart" each individual preference is a record, with its feedback as critiques.
    """
    prompt, turns = prompt_of(listed(row, "context"), "context", settings.template)
    kind = optional_text(row, "domain")
    bodies = [text(row, field, empty=EMPTY) for field in ("response1", "response2")]
    if bodies[0].strip() == bodies[1].strip():
        raise BadRow("response2: equals response1")
    overall = whole(row.get("overall_preference"), "overall_preference", least=-3, most=3)

    def record(score: int, annotator: str, critiques: tuple[str, str]) -> Record:
        ranks = (int(score > 0), int(score < 0))
        found = [
            Response(body, rank, critique=critique)
            for body, rank, critique in zip(bodies, ranks, critiques, strict=True)
        ]
        found.sort(key=lambda response: response.rank or 0)
        return Record("", prompt, tuple(found), kind, turns, annotator, margin=float(abs(score)))

    if settings.annotators == "overall":
        return Found((record(overall, "", ("", "")),))
    records = []
    for place, item in enumerate(listed(row, "individual_preference")):
        field = f"individual_preference[{place}]"
        judged = table(item, field)
        score = whole(judged.get("score"), f"{field}.score", least=-3, most=3)
        critiques = (
            optional_text(judged, "feedback1", f"{field}.feedback1"),
            optional_text(judged, "feedback2", f"{field}.feedback2"),
        )
        records.append(record(score, str(place + 1), critiques))
    if not records:
        raise BadRow("individual_preference: no preferences")
    return Found(tuple(records))


def nemo_rl(row: Row, settings: Settings) -> Found:
    """``{"context": messages, "completions": [{"rank", "completion": messages}]}``, the lowest rank the best."""
    context = messages(row.get("context"), "context")
    dialogues, ranks = [], []
    for place, item in enumerate(listed(row, "completions")):
        field = f"completions[{place}]"
        completion = table(item, field)
        ranks.append(whole(completion.get("rank"), f"{field}.rank"))
        turns = messages(completion.get("completion"), f"{field}.completion", EMPTY)
        dialogues.append((f"{field}.completion", (*context, *turns)))
    if not dialogues:
        raise BadRow("completions: 0 distinct, at least 2 are needed")
    shared, bodies = last_turns(dialogues)
    responses = [Response(body, rank) for body, rank in zip(bodies, ranks, strict=True)]
    return ranked_list(render(shared, settings.template), responses, "completions", turns=shared)


def _score(completion: Mapping[str, Any], field: str) -> tuple[float, str]:
    """The score, and the scale that it is on: 1 to 5 of the aspects ("aspects"), 1 to 10 "overall"."""
    if completion.get("fine-grained_score") is not None:
        return number(completion["fine-grained_score"], f"{field}.fine-grained_score"), "aspects"
    aspects = completion.get("annotations")
    if aspects is not None:
        ratings = [
            _rating(table(found, f"{field}.annotations.{aspect}").get("Rating"), f"{field}.annotations.{aspect}.Rating")
            for aspect, found in filled(aspects, f"{field}.annotations").items()
        ]
        rated = [rating for rating in ratings if rating is not None]
        if rated:
            return sum(rated) / len(rated), "aspects"
    if completion.get("overall_score") is not None:
        return number(completion["overall_score"], f"{field}.overall_score"), "overall"
    raise BadRow(f"{field}: no fine-grained_score, rating or overall_score")


def _rating(value: Any, field: str) -> float | None:
    """Ratings are written as texts."""
    if value == UNRATED:
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRow(f"{field}: expected a number or {UNRATED}, found {value!r:.40}") from None
    return number(value, field)
