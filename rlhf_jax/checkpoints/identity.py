"""What a checkpoint was made by, and what to say where that is not what goes on from it.

An identity is a dict of what can be written as JSON: marks by name (``stage``, ``data``, ``tokenizer``), and under
``config`` the settings by their keys. Two of them are compared in what both have.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_jax.checkpoints.digest import plain
from rlhf_jax.errors import UserError

# What may never differ; the rest may if it is asked for, by config.checkpoint.accept.
_FIXED = {"stage"}
_UNSAID = object()  # a setting that is not there is at its default


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
        if old.get(key, _UNSAID) != new.get(key, _UNSAID):
            yield f"{name}.{key}: {_short(old.get(key, _UNSAID))} -> {_short(new.get(key, _UNSAID))}"


def _short(value: Any) -> str:
    """As it is, or the beginning of a hash."""
    if value is _UNSAID:
        return "default"
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)


def refuse(
    named: str, old: Mapping[str, Any], new: Mapping[str, Any], accept: Sequence[str] | None = None
) -> tuple[str, ...]:
    """A note for each difference that is accepted; ``accept`` None: nothing ever is.

    Raises:
      UserError: there are others; the line begins with ``named``, lists every one of them, and ends with what
        would let them pass.
    """
    found = differences(old, new)
    refused = [name for name in found if name not in (accept or ())]
    if not refused:
        return tuple(f"{named}: accepted: {line}" for lines in found.values() for line in lines)
    listed = "; ".join(line for name in refused for line in found[name])
    text = f"{named}: of another run (old -> new): {listed}"
    if accept is not None and not _FIXED & set(refused):
        words = ",".join(sorted({*accept, *refused}))
        text += f"; name another --workdir, or go on all the same with --config.checkpoint.accept={words}"
    raise UserError(text)
