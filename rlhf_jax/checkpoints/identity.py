"""What a checkpoint was made by, and what to say where that is not what goes on from it.

An identity is a dict of what can be written as JSON: marks by name (``stage``, ``data``, ``tokenizer``), and under
``config`` the settings by their keys. Two of them are compared in what both have.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_jax.checkpoints.digest import plain
from rlhf_jax.errors import UserError

# What may differ if it is asked for: `checkpoint.accept`.
ACCEPTABLE = ("config", "data", "tokenizer")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[str]]:
    """What differs, by name, each difference as "old -> new"."""
    old, new = plain(old), plain(new)
    found = {name: list(_between(name, old[name], new[name])) for name in new if name in old}
    return {name: lines for name, lines in found.items() if lines}


def _between(name: str, old: Any, new: Any) -> Iterator[str]:
    if not isinstance(new, dict) or not isinstance(old, dict):
        if old != new:
            yield f"{name}: {_short(old)} -> {_short(new)}"
        return
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"{name}.{key}: {_short(old.get(key))} -> {_short(new.get(key))}"


def _short(value: Any) -> str:
    """As it is, or the beginning of a hash."""
    text = repr(value) if isinstance(value, str) else str(value)
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else text


def refuse(
    named: str, old: Mapping[str, Any], new: Mapping[str, Any], accept: Sequence[str] = (), advice: str = ""
) -> tuple[str, ...]:
    """A note for each difference that is accepted.

    Raises:
      UserError: there are others; the line begins with ``named``, lists every one of them, and ends with ``advice``
        and what would let them pass.
    """
    found = differences(old, new)
    refused = [name for name in found if name not in accept]
    if not refused:
        return tuple(f"{named}: accepted: {line}" for lines in found.values() for line in lines)
    listed = "; ".join(line for name in refused for line in found[name])
    able = set(refused) <= set(ACCEPTABLE)
    mend = f"config.checkpoint.accept={','.join(sorted({*accept, *refused}))} goes on all the same" if able else ""
    raise UserError("; ".join(part for part in (f"{named}: made by another run (old -> new): {listed}", advice, mend) if part))
