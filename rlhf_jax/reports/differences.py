"""Settings of several runs held against each other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ABSENT = "–"


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting of a nested configuration; an empty section has none."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Dotted key → its value in each configuration, as text, for the keys in which any two differ.

    Values are compared as JSON has them: 1 and 1.0 are one number, true and 1 are not the same.
    """
    flat = [dict(leaves(config)) for config in configs]
    found = {}
    for key in sorted({key for one in flat for key in one}):
        values = [value_text(one[key]) if key in one else ABSENT for one in flat]
        if len(set(values)) > 1:
            found[key] = values
    return found


def value_text(value: Any) -> str:
    """A setting as text: a text as it is, a number in its shortest form, anything else as JSON."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
