"""A utility as a command line names it: NAME[:PARAMETER,..], or FILE.py:CLASS of a user's own. Nothing imports JAX."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_jax.config import did_you_mean
from rlhf_jax.errors import UserError

if TYPE_CHECKING:
    from rlhf_jax.objectives.utilities import Utility

# Of each utility: its parameters, in the order in which they are given.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "power": ("gamma",),
    "negative_power": ("gamma",),
    "log": (),
    "log_sigmoid": ("sigma",),
    "linear": (),
    "exponential": ("sigma",),
    "quantile": ("a", "b"),
}


def read_utility(option: str, text: str) -> tuple[str, tuple[float, ...]]:
    """The name (or FILE.py:CLASS), and the numbers given, none if the class's own will do.

    Raises:
      UserError: ``option: reason``.
    """
    name, _, rest = text.partition(":")
    if ".py" in text:
        own = re.fullmatch(r"(.*\.py):(\w+)(?::(.*))?", text)
        if own is None or not Path(own[1]).is_file():
            raise UserError(f"{option}: {text}: no such file, or no class named: FILE.py:CLASS[:PARAMETER,..]")
        given = own[3].split(",") if own[3] else []
        return f"{own[1]}:{own[2]}", tuple(read_positive(f"{option}: {own[2]}", value) for value in given)
    if name not in PARAMETERS:
        hint = did_you_mean(name, PARAMETERS) or f"; one of {', '.join(PARAMETERS)}, or FILE.py:CLASS"
        raise UserError(f"{option}: no utility {name!r}{hint}")
    names = PARAMETERS[name]
    values = rest.split(",") if rest else []
    if values and len(values) != len(names):
        wanted = ",".join(key.upper() for key in names)
        raise UserError(f"{option}: {text}: must be {name}{':' if names else ''}{wanted}")
    parameters = {key: read_positive(f"{option}: {key}", value) for key, value in zip(names, values, strict=False)}
    if name == "power" and parameters.get("gamma", 0.0) > 1.0:
        raise UserError(f"{option}: gamma: {values[0]} is not allowed, must be at most 1 (x^gamma is concave)")
    return name, tuple(parameters.values())


def make_named(option: str, name: str, values: tuple[float, ...], **form: float | str) -> "Utility":
    """The utility that ``read_utility`` has read; ``form``: its extension and epsilon, if not the class's own.

    Raises:
      UserError: ``option: reason``, if there are not as many numbers as the class takes. Else what a file raises.
    """
    from rlhf_jax.objectives.utilities import (
        load_member,
        make_utility,
        parameters_of,
        unsettable,
    )  # here: they load JAX

    member = load_member(name)
    names = parameters_of(member)
    if values and len(values) != len(names):
        wanted = ",".join(key.upper() for key in names)
        rest = f"; {unsettable(member)}" if unsettable(member) else ""
        raise UserError(f"{option}: must be {name}{':' if names else ''}{wanted}{rest}")
    return make_utility(name, **dict(zip(names, values, strict=False)), **form)


def read_positive(option: str, text: str) -> float:
    """A finite number above 0. Raises UserError ``option: reason``."""
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{option}: {text!r} is not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{option}: {text} is not allowed, must be above 0")
    return value
