"""Argilla's rankings, in the four shapes in which its releases export them.

- 1.x, records: ``{"fields", "responses": [{"user_id", "status", "values": {QUESTION: {"value":
  [{"rank", "value"}]}}}]}``
- 1.x, on the Hub: ``{FIELD..., QUESTION: [{"user_id", "status", "value": {"rank": [...], "value": [...]}}],
  "external_id", "metadata"}``
- 2.x, records: ``{"fields", "responses": {QUESTION: [{"user_id", "value": [NAME, ...]}]}}``, best first
- 2.x, flat: ``{FIELD..., "QUESTION.responses": [[NAME, ...]], "QUESTION.responses.users": [...],
  "QUESTION.responses.status": [...]}``

A ranked name is the field that holds the answer. The prompt is the field called by the first of ``PROMPTS`` that there
is. Responses that were not submitted are counted, not read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rlhf_jax.data.readers.checks import BadRow, Row, filled, has, listed, table, text, type_of, whole
from rlhf_jax.data.readers.dialogue import prompt_of
from rlhf_jax.data.readers.formats.common import Found, Settings, ranked_list
from rlhf_jax.data.records import Record, Response

PROMPTS = ("prompt", "instruction", "input", "question", "query", "context", "chat", "text")
FLAT = ".responses"
_PARTS = ("users", "status")
_OTHER = {"id", "_server_id", "external_id", "status", "metadata", "vectors", "suggestions", "responses", "fields"}


class _Judgement(NamedTuple):
    """Whose it is, its status ("submitted", "draft", "discarded" or unknown), where it stands, and its ranking."""

    user: str
    status: str
    at: str
    value: Any


def is_flat(row: Row) -> bool:
    """Whether the row has the columns of a flat export."""
    if any(key.endswith(FLAT) for key in row):
        return True
    asked = any(key.endswith("-suggestion") for key in row) or any(
        value and _is_question(value) for value in row.values()
    )
    return asked and {"external_id", "metadata"} <= row.keys()


def read(row: Row, settings: Settings) -> Found:
    """One record for each submitted ranking."""
    nested = row.get("fields") is not None
    if not nested and not any(key.endswith(FLAT) or _is_question(value) for key, value in row.items()):
        raise BadRow("fields: missing (and no column holds answers to a question)")
    fields = table(row["fields"], "fields") if nested else {key: row[key] for key in row if key not in _OTHER}
    fields = {key: value for key, value in fields.items() if "." not in key and _is_field(value)}
    prefix = "fields." if nested else ""
    records: list[Record] = []
    duplicates = skipped = 0
    for judgement in _nested(row) if nested else _columns(row):
        ranks = _ranks(judgement)
        if ranks is None:
            continue  # an answer to another kind of question
        if judgement.status not in ("", "submitted"):
            skipped += 1
            continue
        found = _record(ranks, judgement, fields, prefix, settings)
        records += found.records
        duplicates += found.duplicates
    return Found(tuple(records), duplicates, skipped)


def _record(
    ranks: Mapping[str, int], judgement: _Judgement, fields: Mapping[str, Any], prefix: str, settings: Settings
) -> Found:
    by_name = {_plain(key): key for key in fields}
    answers = {}
    for name, rank in ranks.items():
        key = by_name.get(_plain(name))
        if key is None:
            raise BadRow(f"{judgement.at}: ranks {name!r:.40}, but no field is called so")
        answers[key] = rank
    asked = next((key for key in PROMPTS if key in fields and key not in answers), None)
    if asked is None:
        raise BadRow(f"{prefix}prompt: missing (and no field is called {', '.join(PROMPTS[1:])})")
    prompt, turns = prompt_of(fields[asked], prefix + asked, settings.template)
    responses = [
        Response(text(fields, key, prefix + key, "empty response text"), rank) for key, rank in answers.items()
    ]
    return ranked_list(prompt, responses, judgement.at, turns=turns, annotator=judgement.user)


def _nested(row: Row) -> Iterator[_Judgement]:
    responses = row.get("responses")
    if isinstance(responses, dict):  # 2.x, by question
        for question in filled(responses, "responses"):
            for place, item in enumerate(listed(responses, question, f"responses.{question}")):
                at = f"responses.{question}[{place}]"
                answer = table(item, at)
                yield _Judgement(_name(answer, "user_id"), _name(answer, "status"), at, answer.get("value"))
        return
    for place, item in enumerate(listed(row, "responses")):  # 1.x, by user
        response = table(item, f"responses[{place}]")
        for question, answer in filled(response.get("values") or {}, f"responses[{place}].values").items():
            at = f"responses[{place}].values.{question}"
            value = table(answer, at).get("value")
            yield _Judgement(_name(response, "user_id"), _name(response, "status"), at, value)


def _columns(row: Row) -> Iterator[_Judgement]:
    for key, answers in row.items():
        if key.endswith(FLAT) and answers is not None:  # 2.x
            users, states = (listed(row, f"{key}.{part}") if has(row, f"{key}.{part}") else () for part in _PARTS)
            for place, value in enumerate(listed(row, key)):
                user = users[place] if place < len(users) else None
                state = states[place] if place < len(states) else None
                yield _Judgement(str(user or ""), str(state or ""), f"{key}[{place}]", value)
        elif _is_question(answers):  # 1.x
            for place, item in enumerate(answers):
                value, at = item["value"], f"{key}[{place}]"
                if isinstance(value, dict):  # columns of ranks and of names
                    ranks, names = listed(value, "rank", f"{at}.rank"), listed(value, "value", f"{at}.value")
                    if len(ranks) != len(names):
                        raise BadRow(f"{at}: {len(ranks)} ranks of {len(names)} values")
                    value = [{"rank": rank, "value": name} for rank, name in zip(ranks, names, strict=True)]
                yield _Judgement(_name(item, "user_id"), _name(item, "status"), at, value)


def _ranks(judgement: _Judgement) -> dict[str, int] | None:
    """Ranks by name; None for the answer to another kind of question."""
    value, at = judgement.value, judgement.at
    if not isinstance(value, list) or not value:
        return None
    if isinstance(value[0], dict) and {"rank", "value"} <= value[0].keys():
        for place, one in enumerate(value):
            if not {"rank", "value"} <= table(one, f"{at}.value[{place}]").keys():
                raise BadRow(f"{at}.value[{place}]: no rank and value, as the others have")
        names = [(one["value"], whole(one["rank"], f"{at}.value[{place}].rank")) for place, one in enumerate(value)]
    elif isinstance(value[0], str):
        names = [(name, rank) for rank, name in enumerate(value)]
    else:
        return None
    ranks: dict[str, int] = {}
    for place, (name, rank) in enumerate(names):
        if not isinstance(name, str):
            raise BadRow(f"{at}.value[{place}]: expected a string, found {type_of(name)}")
        if name in ranks:
            raise BadRow(f"{at}: ranks {name!r:.40} twice")
        ranks[name] = rank
    return ranks


def _is_field(value: Any) -> bool:
    """Whether it is a text or a chat."""
    chat = isinstance(value, list) and all(isinstance(item, dict) and "role" in item for item in value)
    return isinstance(value, str) or (chat and bool(value))


def _is_question(value: Any) -> bool:
    """Whether it is the column of a question of 1.x: what each user answered."""
    return isinstance(value, list) and all(
        isinstance(item, dict) and {"user_id", "value"} <= item.keys() for item in value
    )


def _name(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def _plain(name: str) -> str:
    """Question options write "response-1" or "Response 1" for the field response_1."""
    return re.sub(r"[-_ ]", "", name.lower())
