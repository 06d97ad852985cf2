"""What is swept, over what, and how it is judged: what ``sweep.json`` holds."""

import dataclasses
import json
from typing import Any, Literal

from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.errors import UserError

Sampler = Literal["grid", "random", "tpe"]
Pruner = Literal["none", "median", "halving"]


@dataclasses.dataclass(frozen=True)
class SweepSpec:
    """One sweep.

    ``config`` is the configuration that every trial starts from, as plain values; ``file`` the SHA-256 of the file of
    the space, "" where there is none; ``keys`` the pairs of key and text of the command line. ``failures`` is the share
    of ended trials that may have failed.
    """

    config: dict[str, Any]
    file: str
    keys: tuple[tuple[str, str], ...]
    sampler: Sampler
    sampler_seed: int
    seeds: tuple[int, ...]
    points: int
    objectives: tuple[Objective, ...]
    pruner: Pruner
    failures: float

    @property
    def trials(self) -> int:
        """How many runs that are, if none is left out."""
        return self.points * len(self.seeds)


def to_json(spec: SweepSpec) -> str:
    """The text of ``sweep.json``."""
    shown = dataclasses.asdict(spec)
    shown["space"] = {"file": shown.pop("file"), "keys": dict(shown.pop("keys"))}
    return json.dumps(shown, indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> SweepSpec:
    """The sweep of ``to_json``'s text.

    Raises:
      UserError: it is no such text.
    """
    try:
        found = json.loads(text)
        space = found.pop("space")
        return SweepSpec(
            **found
            | {
                "file": space["file"],
                "keys": tuple(space["keys"].items()),
                "seeds": tuple(found["seeds"]),
                "objectives": tuple(Objective(**one) for one in found["objectives"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"sweep.json: not what a sweep writes: {type(error).__name__}: {error}") from None


# Of the same trials another question may be asked, and more points be added to them.
FREE = ("points", "objectives", "pruner", "failures")


def differences(old: SweepSpec, new: SweepSpec) -> list[str]:
    """What a command asks for otherwise than the sweep was begun, a line each; of what must stay as it was."""
    lines = []
    theirs, ours = _flat(old.config), _flat(new.config)
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            lines.append(f"config.{key}: {ours.get(key)!r}, but the sweep has {theirs.get(key)!r}")
    for field in dataclasses.fields(SweepSpec):
        own, other = getattr(new, field.name), getattr(old, field.name)
        if field.name in ("config", *FREE) or own == other:
            continue
        if field.name == "file":
            lines.append("--space: not the file that the sweep was begun with, of which space.py is a copy")
        else:
            lines.append(f"--{_OPTION.get(field.name, field.name)}: {_shown(own)}, but the sweep has {_shown(other)}")
    return lines


_OPTION = {"keys": "sweep"}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{one[0]}={one[1]}" if isinstance(one, tuple) else str(one) for one in value) or "nothing"
    return str(value)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
