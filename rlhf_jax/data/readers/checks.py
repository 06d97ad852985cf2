"""What a field may hold. Every check raises ``BadRow`` with "field: reason" and returns the value, typed.

A field that is null counts as missing: Parquet files write every column in every row.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.records import ROLES, Message, Span

Row = Mapping[str, Any]


class BadRow(Exception):
    """A row that cannot be used; the message is "field: reason"."""


def has(row: Row, *keys: str) -> bool:
    """Whether all fields are there and not null."""
    return all(row.get(key) is not None for key in keys)


def type_of(value: Any) -> str:
    """The name of a value's type."""
    return type(value).__name__


def valid_text(value: Any, field: str, empty: str = "empty text") -> str:
    """A text that is more than white space and can be written as UTF-8."""
    if value is None:
        raise BadRow(f"{field}: missing")
    if not isinstance(value, str):
        raise BadRow(f"{field}: expected a string, found {type_of(value)}")
    if not value.strip():
        raise BadRow(f"{field}: {empty}")
    return _unicode(value, field)


def text(row: Row, key: str, field: str = "", empty: str = "empty text") -> str:
    """The text at ``key``; ``field`` is its full name where that is another."""
    return valid_text(row.get(key), field or key, empty)


def optional_text(row: Row, key: str, field: str = "") -> str:
    """The text at ``key``, empty if there is none."""
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{field or key}: expected a string, found {type_of(value)}")
    return _unicode(value, field or key)


def name(row: Row, key: str, field: str = "") -> str:
    """A name or number at ``key`` as text, empty if there is none."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return optional_text(row, key, field)


def number(value: Any, field: str) -> float:
    """A finite number; truth values are none."""
    if value is None:
        raise BadRow(f"{field}: missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"{field}: expected a number, found {type_of(value)}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise BadRow(f"{field}: not finite")
    return value


def optional_number(row: Row, key: str, field: str = "") -> float | None:
    """The finite number at ``key``, None if there is none."""
    return None if row.get(key) is None else number(row[key], field or key)


def margin(row: Row) -> float | None:
    """The field ``margin``: a number from 0, or None."""
    found = optional_number(row, "margin")
    if found is not None and found < 0:
        raise BadRow(f"margin: {found:g} is negative")
    return found


def whole(value: Any, field: str, least: int = 0, most: int = 2**31 - 1) -> int:
    """A whole number in ``least`` .. ``most``; 2.0 is one (columns with gaps are written as floats)."""
    if value is None:
        raise BadRow(f"{field}: missing")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        reach = f"from {least}" if most == 2**31 - 1 else f"in {least}..{most}"
        raise BadRow(f"{field}: expected a whole number {reach}, found {value!r:.40}")
    return value


def label(value: Any, field: str) -> float:
    """A verdict in [0, 1]: true, false or a number."""
    if isinstance(value, bool):
        return float(value)
    found = number(value, field)
    if not 0 <= found <= 1:
        raise BadRow(f"{field}: {found:g} is outside [0, 1]")
    return found


def listed(row: Row, key: str, field: str = "") -> Sequence[Any]:
    """The list at ``key``."""
    field, value = field or key, row.get(key)
    if not isinstance(value, list):
        raise BadRow(f"{field}: missing" if value is None else f"{field}: expected a list, found {type_of(value)}")
    return value


def table(value: Any, field: str) -> Row:
    """An object."""
    if not isinstance(value, dict):
        raise BadRow(f"{field}: missing" if value is None else f"{field}: expected an object, found {type_of(value)}")
    return value


def filled(value: Any, field: str) -> Row:
    """An object without its null fields."""
    return {key: found for key, found in table(value, field).items() if found is not None}


def messages(value: Any, field: str, empty: str = "empty text") -> tuple[Message, ...]:
    """The turns of a dialogue, at least one."""
    if not isinstance(value, list):
        found = "missing" if value is None else f"expected a list of messages, found {type_of(value)}"
        raise BadRow(f"{field}: {found}")
    if not value:
        raise BadRow(f"{field}: no messages")
    turns = []
    for place, item in enumerate(value):
        turn = f"{field}[{place}]"
        row = table(item, turn)
        role = text(row, "role", f"{turn}.role")
        if role not in ROLES:
            raise BadRow(f"{turn}.role: {role!r:.40} is not one of {', '.join(ROLES)}")
        turns.append(Message(role, text(row, "content", f"{turn}.content", empty)))
    return tuple(turns)


def spans(row: Row, field: str, length: int) -> tuple[Span, ...]:
    """The field ``spans`` of a response of ``length`` characters, in order; those of one kind do not overlap."""
    if row.get("spans") is None:
        return ()
    found = []
    for place, item in enumerate(listed(row, "spans", f"{field}.spans")):
        at = f"{field}.spans[{place}]"
        given = table(item, at)
        start, end = whole(given.get("start"), f"{at}.start"), whole(given.get("end"), f"{at}.end")
        if not start < end <= length:
            raise BadRow(f"{at}: {start}..{end} is empty or outside the {length} characters of the response")
        verdict, kind = label(given.get("label"), f"{at}.label"), optional_text(given, "kind", f"{at}.kind")
        found.append(Span(start, end, verdict, kind))
    ends: dict[str, int] = {}
    found.sort(key=lambda span: (span.start, span.end, span.kind))
    for span in found:
        if span.start < ends.get(span.kind, 0):
            of = f" of kind {span.kind!r}" if span.kind else ""
            raise BadRow(f"{field}.spans: {span.start}..{span.end} overlaps the span before it{of}")
        ends[span.kind] = span.end
    return tuple(found)


def _unicode(value: str, field: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"{field}: lone surrogate, not valid Unicode") from None
    return value
