"""What values a setting may have, and how an error says so."""

import difflib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict


def kind_and_level(text: str) -> tuple[str, str]:
    """The two parts of an entry of ``segments.kinds``; a kind may have colons, a level has none."""
    kind, _, level = text.rpartition(":")
    return kind, level


def different(entries: tuple[str, ...]) -> bool:
    return len({entry.rpartition(":")[0] for entry in entries}) == len(entries)


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class Rule(NamedTuple):
    """What a value must satisfy, and how the error says so."""

    holds: Callable[[Any], bool]
    text: str


def one_of(*names: str) -> Rule:
    return Rule(lambda v: v in names, "|".join(names))


OWN_CLASS, OWN_FUNCTION = "FILE.py:CLASS", "FILE.py:FUNCTION"  # what stands for code of a user's in a rule's text


def one_of_or_own(*names: str) -> Rule:
    """One of the names, or a class in a user's file."""
    return Rule(lambda v: v in names or ":" in v, "|".join((*names, OWN_CLASS)))


def missing_file(name: str) -> str:
    """The path of ``FILE.py:CLASS`` if there is no such file; empty for one that is there, or a plain name."""
    path, own, _ = name.rpartition(":")
    return path if own and not os.path.isfile(path) else ""


COUNT = Rule(lambda v: v >= 1, "at least 1")
NATURAL = Rule(lambda v: v >= 0, "at least 0")
POSITIVE = Rule(lambda v: v > 0, "above 0")
NOT_NEGATIVE = Rule(lambda v: v >= 0, "at least 0")
ANY = Rule(lambda v: True, "any finite number")
ANY_TEXT = Rule(lambda v: True, "any text")
CLOSED_UNIT = Rule(lambda v: 0 <= v <= 1, "in [0, 1]")
OPEN_UNIT = Rule(lambda v: 0 < v < 1, "in (0, 1)")
DECAY = Rule(lambda v: 0 <= v < 1, "in [0, 1)")
BOOL = Rule(lambda v: isinstance(v, bool), "True or False")


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the nearest option, empty if none is near."""
    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key (without ``config.``) and value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
