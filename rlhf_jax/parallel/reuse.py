"""Compiled programs shared by the runs of one process: the same function of the same constants is traced only once.

Each run makes its functions anew, so that they are compared by what they are: their code, and all that their closures
and partial applications hold. Arrays and plain values count by value; of anything else, an object is equal to nothing
but itself, so that at worst a program is compiled again.
"""

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.parallel.executors import Executor, Kind

KEPT = 64  # programs; all stages of a run have a dozen
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, np.dtype, enum.Enum, types.CodeType)


class _Itself:
    """An object that is equal to itself alone, kept alive so that no other takes its place in memory."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def fingerprint(value: Any, inside: tuple[int, ...] = ()) -> Hashable:
    """Equal for two functions or constants that make the same program. ``inside`` are the ids of what it is part of."""
    if id(value) in inside:  # a function that calls itself
        return ("above", len(inside) - inside.index(id(value)))
    inner = functools.partial(fingerprint, inside=(*inside, id(value)))
    kind = type(value)
    if isinstance(value, _PLAIN):
        # repr tells 0.0 from -0.0 and 1 from True, and makes nan equal to itself.
        return (kind, repr(value) if isinstance(value, float | complex) else value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value)
    if isinstance(value, tuple | list):
        return (kind, tuple(map(inner, value)))
    if isinstance(value, dict):
        return (kind, tuple((inner(key), inner(one)) for key, one in value.items()))
    if isinstance(value, functools.partial):
        return (kind, inner(value.func), inner(value.args), inner(value.keywords))
    if isinstance(value, types.MethodType):
        return (kind, inner(value.__func__), inner(value.__self__))
    if isinstance(value, types.FunctionType):
        held = tuple(_held(cell, inner) for cell in value.__closure__ or ())
        return (
            kind,
            value.__code__,
            id(value.__globals__),
            inner(value.__defaults__),
            inner(value.__kwdefaults__),
            held,
        )
    if dataclasses.is_dataclass(value) and kind.__dataclass_params__.frozen:
        return (kind, tuple(inner(getattr(value, field.name)) for field in dataclasses.fields(value)))
    return _Itself(value)


def _held(cell: types.CellType, inner: Callable[[Any], Hashable]) -> Hashable:
    try:
        return inner(cell.cell_contents)
    except ValueError:  # nothing yet
        return _Itself(cell)


def _array(value: Any) -> Hashable:
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return (str(value.dtype), _array(jax.random.key_data(value)))
    if isinstance(value, jax.core.Tracer) or (isinstance(value, jax.Array) and not value.is_fully_addressable):
        return _Itself(value)
    host = np.asarray(value)
    weak = isinstance(value, jax.Array) and value.weak_type
    return (type(value), str(host.dtype), weak, host.shape, hashlib.blake2b(host.tobytes()).digest())


class ReusingExecutor:
    """An executor that compiles no function twice, as long as it is among those used last."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._compiled: dict[Hashable, Callable[..., Any]] = {}  # the one used last comes last
        self.mesh: Mesh = executor.mesh
        self.row_shards = executor.row_shards
        self.place, self.shardings = executor.place, executor.shardings

    def make(self, function: Callable[..., Any], *args: Any) -> Any:
        # jax.jit knows a function that it has seen by its identity.
        return self._executor.make(self._known(("make", fingerprint(function)), lambda: function), *args)

    def compile(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Kind],
        outputs: Sequence[Kind],
        donate: Sequence[int] = (),
        *,
        inference: bool = False,
    ) -> Callable[..., Any]:
        key = (fingerprint(function), tuple(inputs), tuple(outputs), tuple(donate), inference)
        return self._known(key, lambda: self._executor.compile(function, inputs, outputs, donate, inference=inference))

    def _known(self, key: Hashable, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        known = self._compiled.pop(key) if key in self._compiled else make()
        self._compiled[key] = known
        if len(self._compiled) > KEPT:
            del self._compiled[next(iter(self._compiled))]
        return known
