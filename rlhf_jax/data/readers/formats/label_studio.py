"""Label Studio's JSON export: one task a row, the judgement of each annotator a record.

``{"data": {"prompt", "prompt_messages"?, "prompt_type"?, ...}, "annotations": [{"completed_by", "was_cancelled",
"result": [...]}]}``; the prompt is the messages where there are some.
A result, ``{"to_name", "value"}``, is a pairwise choice, ``value.selected`` "left" or "right", or a ranking,
``value.ranker``: lists of item ids by the name of a bucket, best first; "_" holds the items that were not moved.
Cancelled and empty annotations are counted, not read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.data.label_studio import TURNS
from rlhf_jax.data.readers.checks import BadRow, Row, filled, has, listed, table, text, type_of
from rlhf_jax.data.readers.dialogue import prompt_of
from rlhf_jax.data.readers.formats.common import Found, Settings, pair, ranked_list
from rlhf_jax.data.readers.ranking import distinct, ordered
from rlhf_jax.data.records import Record, Response

EMPTY = "empty response text"
UNMOVED = "_"
# The two texts of a pairwise task where the result does not name them: as in Label Studio's templates.
_SIDES = (("answer1", "answer2"), ("response1", "response2"), ("text1", "text2"))


def read(row: Row, settings: Settings) -> Found:
    """One record for each annotation with a judgement."""
    data = table(row.get("data"), "data")
    kind = text(data, "prompt_type", "data.prompt_type") if data.get("prompt_type") is not None else ""
    records: list[Record] = []
    duplicates = skipped = 0
    for place, item in enumerate(listed(row, "annotations")):
        field = f"annotations[{place}]"
        annotation = table(item, field)
        judged = None if annotation.get("was_cancelled") else _judged(annotation, data, settings, field)
        if judged is None:
            skipped += 1
            continue
        records += [dataclasses.replace(record, prompt_type=kind) for record in judged.records]
        duplicates += judged.duplicates
    return Found(tuple(records), duplicates, skipped)


def _judged(annotation: Row, data: Row, settings: Settings, field: str) -> Found | None:
    """The first pairwise or ranking result of an annotation."""
    for place, item in enumerate(listed(annotation, "result", f"{field}.result")):
        at = f"{field}.result[{place}]"
        result = table(item, at)
        value = table(result.get("value"), f"{at}.value")
        who = _annotator(annotation.get("completed_by"), f"{field}.completed_by")
        if value.get("selected") is not None:
            return _pairwise(result, value, data, settings, who, at)
        if value.get("ranker") is not None:
            return _ranking(value["ranker"], data, settings, who, f"{at}.value.ranker")
    return None


def _pairwise(result: Row, value: Row, data: Row, settings: Settings, who: str, at: str) -> Found:
    prompt, turns = _prompt(data, settings)
    named = tuple(name.strip() for name in str(result.get("to_name") or "").split(","))
    sides = [names for names in (named, *_SIDES) if len(names) == 2 and has(data, *names)]
    if not sides:
        raise BadRow(f"{at}.to_name: {result.get('to_name')!r:.60} names no two texts of data")
    left, right = (Response(text(data, name, f"data.{name}", EMPTY)) for name in sides[0])
    if value["selected"] not in ("left", "right"):
        raise BadRow(f"{at}.value.selected: {value['selected']!r:.40} is not 'left' or 'right'")
    if left.text.strip() == right.text.strip():
        raise BadRow(f"data.{sides[0][1]}: equals data.{sides[0][0]}")
    responses = pair(left, right) if value["selected"] == "left" else pair(right, left)
    return Found((Record("", prompt, responses, messages=turns, annotator=who),))


def _ranking(found: Any, data: Row, settings: Settings, who: str, at: str) -> Found | None:
    """One list is a ranking. Several buckets are a partial order: the export does not say which of them is better, so
    items of different buckets are not compared."""
    prompt, turns = _prompt(data, settings)
    items = _items(data)
    buckets: dict[str, list[Response]] = {}
    seen: set[str] = set()
    found = filled(found, at)
    for bucket in found:
        ids = listed(found, bucket, f"{at}.{bucket}")
        for place, name in enumerate(ids):
            if str(name) not in items:
                raise BadRow(f"{at}.{bucket}[{place}]: no item {name!r:.40} in data.items")
            if str(name) in seen:
                raise BadRow(f"{at}.{bucket}[{place}]: item {name!r:.40} is placed twice")
            seen.add(str(name))
        if bucket != UNMOVED or len(found) == 1:
            buckets[bucket] = [items[str(name)] for name in ids]
    placed = [item for bucket in buckets.values() for item in bucket]
    if len(buckets) == 1:
        return None if len(placed) < 2 else ranked_list(prompt, placed, "data.items", turns=turns, annotator=who)
    if len(distinct(placed)) < len(placed):
        raise BadRow("data.items: two items have the same body, but lie in several buckets")
    edges, start = [], 0
    for size in map(len, buckets.values()):
        edges += [(start + i, start + j) for i in range(size) for j in range(i + 1, size)]
        start += size
    if not edges:
        return None
    responses, order = ordered(placed, tuple(edges))
    return Found((Record("", prompt, responses, messages=turns, annotator=who, edges=order),))


def _items(data: Row) -> Mapping[str, Response]:
    items: dict[str, Response] = {}
    for place, item in enumerate(listed(data, "items", "data.items")):
        field = f"data.items[{place}]"
        entry = table(item, field)
        name = entry.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise BadRow(f"{field}.id: expected a string, found {type_of(name)}")
        if str(name) in items:
            raise BadRow(f"{field}.id: {name!r:.40} is the id of two items")
        items[str(name)] = Response(text(entry, "body", f"{field}.body", EMPTY), source=str(entry.get("title") or ""))
    return items


def _prompt(data: Row, settings: Settings) -> tuple[str, Any]:
    field = TURNS if data.get(TURNS) is not None else "prompt"
    return prompt_of(data.get(field), f"data.{field}", settings.template)


def _annotator(who: Any, field: str) -> str:
    """A user's number, or the user with an email."""
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    if who is None:
        return ""
    if isinstance(who, bool) or not isinstance(who, str | int):
        raise BadRow(f"{field}: expected a user, found {type_of(who)}")
    return str(who)
