"""A user's own gold reward: a function of a prompt and a response in a file."""

import math
import runpy
from collections.abc import Callable
from pathlib import Path

from rlhf_jax.errors import UserError


def load_gold(name: str) -> Callable[[str, str], float]:
    """The function of ``FILE.py:FUNCTION``, whose rewards are seen to be finite numbers.

    Raises:
      UserError: no such file, or no such function in it; later, a reward that is no finite number.
    """
    path, _, title = name.rpartition(":")
    if not Path(path).is_file():
        raise UserError(f"no such file: {path or name}; name a function as FILE.py:FUNCTION")
    try:
        function = runpy.run_path(path).get(title)
    except Exception as error:  # whatever a user's file may do
        raise UserError(f"{path}: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise UserError(f"{path} defines no function {title}")

    def gold(prompt: str, response: str) -> float:
        try:
            found = function(prompt, response)
        except Exception as error:
            raise UserError(f"{name}: {type(error).__name__}: {error}, for the response {response[:60]!r}") from None
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{name}: {found!r} is not a finite number, for the response {response[:60]!r}")
        return value

    return gold
