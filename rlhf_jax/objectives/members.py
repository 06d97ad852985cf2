"""What the families of utilities and divergences share: derivatives, and members of a user's own."""

import inspect
import runpy
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Function = Callable[[Float[Array, "*S"]], Float[Array, "*S"]]
Member = TypeVar("Member")


def elementwise_derivative(function: Function) -> Function:
    """The derivative of a function that works element by element."""

    def derivative(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
        return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]

    return derivative


def load_own(name: str, family: type[Member]) -> type[Member]:
    """The class of ``path/to/file.py:ClassName``, a member of the family that a user brings along.

    Raises:
      ValueError: the file does not exist, or has no such class, or it does not derive from ``family``.
    """
    path, _, title = name.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    found: Any = runpy.run_path(path).get(title)
    if not inspect.isclass(found) or not issubclass(found, family):
        raise ValueError(f"{path} defines no class {title} derived from {family.__module__}.{family.__name__}")
    return found


def told(error: BaseException, name: str) -> str:
    """An error about ``path/to/file.py:ClassName`` in words: its type, what it says, and the line of the file that
    raised it, if it was that file.
    """
    path, text = name.rpartition(":")[0], " ".join(str(error).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, text = [error.lineno], error.msg
    where = f" ({path}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{where}"
