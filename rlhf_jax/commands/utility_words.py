"""A utility as a command line names it: NAME[:PARAMETER,..], or FILE.py:CLASS of a user's own. Nothing imports JAX."""

import math
from pathlib import Path

from rlhf_jax.config import did_you_mean
from rlhf_jax.errors import UserError

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


def read_utility(option: str, text: str) -> tuple[str, dict[str, float]]:
    """What ``make_utility`` takes: the name (or FILE.py:CLASS), and the numbers given, none if the class's own will do.

    Raises:
      UserError: ``option: reason``.
    """
    name, _, rest = text.partition(":")
    if ".py" in text:
        if not Path(text.rpartition(":")[0]).is_file():
            raise UserError(f"{option}: {text}: no such file, or no class named: FILE.py:CLASS")
        return text, {}
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
    return name, parameters


def read_positive(option: str, text: str) -> float:
    """A finite number above 0. Raises UserError ``option: reason``."""
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{option}: {text!r} is not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{option}: {text} is not allowed, must be above 0")
    return value
