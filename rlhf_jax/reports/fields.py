"""What the fields of a row must be, so that a bad one is told by file, line and field."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError

# Of each field: what it must be, as a test and in words.
Fields = Mapping[str, tuple[Callable[[Any], bool], str]]


def check_fields(path: Path, rows: Sequence[Mapping[str, Any]], required: Fields, optional: Fields) -> None:
    """Look at every row of ``path``, one a line; an optional field may be missing or null.

    Raises:
      UserError: ``file:line: field: reason``, of the first bad one.
    """
    for number, row in enumerate(rows, start=1):
        for field, (holds, wanted) in required.items():
            if field not in row:
                raise UserError(f"{path}:{number}: {field}: missing; expected {wanted}")
            if not holds(row[field]):
                raise UserError(f"{path}:{number}: {field}: expected {wanted}, found {json.dumps(row[field])}")
        for field, (holds, wanted) in optional.items():
            if row.get(field) is not None and not holds(row[field]):
                raise UserError(f"{path}:{number}: {field}: expected {wanted} or null, found {json.dumps(row[field])}")


def is_number(value: Any) -> bool:
    """A finite number that a float64 can hold; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> bool:
    """A whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """A text that can be printed: JSON can spell half of a surrogate pair, which no output can."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value
