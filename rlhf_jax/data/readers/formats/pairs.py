"""Pairs of a better and a worse answer: Anthropic's dialogues, TRL's preferences, RewardBench."""

from typing import Any

from rlhf_jax.data.readers.checks import (
    BadRow,
    Row,
    has,
    listed,
    margin,
    messages,
    name,
    optional_text,
    text,
    valid_text,
    whole,
)
from rlhf_jax.data.readers.dialogue import ASSISTANT, HUMAN, last_turns, prompt_of, render
from rlhf_jax.data.readers.formats.common import Found, Settings, pair, ranked_list
from rlhf_jax.data.records import Message, Record, Response

EMPTY = "empty response text"


def hh(row: Row, settings: Settings) -> Found:
    """``{"chosen", "rejected"}``: two transcripts that share all but the last turn of the assistant."""
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    if chosen == rejected:
        raise BadRow("rejected: equals chosen")
    end = chosen.rfind(ASSISTANT, 0, _shared(chosen, rejected))
    if end < 0:
        raise BadRow("rejected: prompts do not match (no shared text up to an assistant turn)")
    end += len(ASSISTANT)
    texts = (chosen[end:], rejected[end:])
    for field, body in zip(("chosen", "rejected"), texts, strict=True):
        valid_text(body, field, EMPTY)
        if ASSISTANT in body or HUMAN in body:
            raise BadRow(f"{field}: prompts do not match (the texts part before the last turn)")
    return Found((Record("", chosen[:end], pair(Response(texts[0]), Response(texts[1]))),))


def preference(row: Row, settings: Settings) -> Found:
    """``{"prompt"?, "chosen", "rejected", "margin"?}``, texts or messages; without a prompt it is what both share."""
    if isinstance(row.get("chosen"), list) or isinstance(row.get("rejected"), list):
        turns, texts = _conversations(row)
        prompt = render(turns, settings.template)
    elif row.get("prompt") is not None:
        prompt, turns = prompt_of(row["prompt"], "prompt", settings.template)
        texts = [text(row, field, empty=EMPTY) for field in ("chosen", "rejected")]
    else:
        prompt, texts, turns = *_implicit(row), ()
    responses = pair(Response(texts[0]), Response(texts[1]))
    return Found((Record("", prompt, responses, messages=turns, margin=margin(row)),))


def rewardbench(row: Row, settings: Settings) -> Found:
    """RewardBench: ``{"prompt", "chosen", "rejected", "subset", "id"?, "chosen_model"?, "rejected_model"?}``."""
    prompt, turns = prompt_of(row.get("prompt"), "prompt", settings.template)
    better, worse = (
        Response(text(row, field, empty=EMPTY), source=optional_text(row, f"{field}_model"))
        for field in ("chosen", "rejected")
    )
    return Found((Record(name(row, "id"), prompt, pair(better, worse), text(row, "subset"), turns),))


def rewardbench2(row: Row, settings: Settings) -> Found:
    """RewardBench 2: lists of equally good ``chosen`` and equally bad ``rejected``, and their numbers."""
    prompt, turns = prompt_of(row.get("prompt"), "prompt", settings.template)
    responses, counts = [], {}
    for rank, field in enumerate(("chosen", "rejected")):
        bodies = [valid_text(body, f"{field}[{i}]", EMPTY) for i, body in enumerate(listed(row, field))]
        if not bodies:
            raise BadRow(f"{field}: no responses")
        counts[field] = len(bodies)
        responses += [Response(body, rank) for body in bodies]
    both = {r.text for r in responses if r.rank == 0} & {r.text for r in responses if r.rank == 1}
    if both:
        raise BadRow("rejected: repeats a chosen response")
    wanted = {
        "num_correct": counts["chosen"],
        "num_incorrect": counts["rejected"],
        "total_completions": len(responses),
    }
    for field, count in wanted.items():
        if field != "num_incorrect" or row.get(field) is not None:
            said = whole(row.get(field), field)
            if said != count:
                raise BadRow(f"{field}: {said}, but there are {count}")
    found = ranked_list(prompt, responses, "chosen", turns=turns)
    best = found.records[0]
    named = Record(name(row, "id"), prompt, best.responses, text(row, "subset"), turns)
    return Found((named,), duplicates=found.duplicates)


def _conversations(row: Row) -> tuple[tuple[Message, ...], list[str]]:
    """(shared turns, last turns) of chosen and rejected as messages, with the prompt in front where it is apart."""
    before: tuple[Message, ...] = ()
    asked: Any = row.get("prompt")
    if asked is not None:
        before = messages(asked, "prompt") if isinstance(asked, list) else (Message("user", text(row, "prompt")),)
    dialogues = []
    for field in ("chosen", "rejected"):
        turns = messages(row.get(field), field, EMPTY)
        # Some files repeat the prompt in both, as messages or as the text of one turn.
        if turns[: len(before)] == before or (isinstance(asked, str) and before[0] in turns):
            dialogues.append((field, turns))
        elif len(turns) > 1 and isinstance(asked, str):
            raise BadRow(f"prompt: is no turn of {field}")
        else:
            dialogues.append((field, (*before, *turns)))
    return last_turns(dialogues)


def _implicit(row: Row) -> tuple[str, list[str]]:
    """(prompt, texts): the prompt is what both begin with, up to the white space before their first difference."""
    texts = [text(row, "chosen"), text(row, "rejected")]
    shared = _shared(*texts)
    end = next((i for i in range(shared, -1, -1) if texts[0][i : i + 1].isspace()), 0)
    if not texts[0][:end].strip():
        raise BadRow("rejected: prompts do not match (begins with no word that chosen begins with)")
    bodies = [valid_text(body[end:], field, EMPTY) for field, body in zip(("chosen", "rejected"), texts, strict=True)]
    return texts[0][:end], bodies


def _shared(one: str, other: str) -> int:
    """How many characters the two begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def is_transcript(row: Row) -> bool:
    """Whether chosen or rejected is a text with a turn of the assistant in it."""
    return any(isinstance(row.get(field), str) and ASSISTANT in row[field] for field in ("chosen", "rejected"))


def are_lists_of_texts(row: Row) -> bool:
    """Whether chosen is a list of texts, not of messages."""
    chosen = row.get("chosen")
    return isinstance(chosen, list) and (has(row, "num_correct") or any(isinstance(item, str) for item in chosen))
