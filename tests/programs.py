"""What a traced program makes and does, read without compiling it."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Every equation of a program, those inside its loops and subprograms too (once each, however often they run)."""
    yield from jaxpr.eqns
    for inner in core.subjaxprs(jaxpr):
        yield from equations(inner)


def traced(function: Callable[..., Any], *args: Any) -> Iterator[core.JaxprEqn]:
    """Every equation of ``function(*args)``."""
    return equations(jax.make_jaxpr(function)(*args).jaxpr)


def largest(dtype: Any, axis: int, function: Callable[..., Any], *args: Any) -> int:
    """Elements of the largest array of ``dtype`` that has an axis of this size, among all that the program makes."""
    made = (variable.aval for equation in traced(function, *args) for variable in equation.outvars)
    return max((one.size for one in made if getattr(one, "dtype", None) == dtype and axis in one.shape), default=0)
