"""Padded rows and their real tokens in one line: there and back, for whatever belongs to a token."""

from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped


class Line(NamedTuple):
    """The real tokens of B rows of T slots, row after row, in a line that has room for M of them.

    ``slot`` says where each token of the line stands in the rows laid end to end, ``token`` where each slot's stands in
    the line; of what is no token it is the first number beyond.
    """

    slot: Int[Array, "M"]
    token: Int[Array, "B T"]

    def collect(self, rows: Shaped[Array, "B T *D"]) -> Shaped[Array, "M *D"]:
        """What belongs to real tokens, in line; 0 where the line has room left."""
        return _moved(rows.reshape(-1, *rows.shape[2:]), self.slot, self.token.reshape(-1))

    def spread(self, line: Shaped[Array, "M *D"]) -> Shaped[Array, "B T *D"]:
        """What belongs to the tokens of the line, in rows; 0 of padding."""
        return _moved(line, self.token.reshape(-1), self.slot).reshape(*self.token.shape, *line.shape[1:])


class Room(NamedTuple):
    """Constants of a program: how many tokens of some rows there are at most, and how many of their responses; None
    where padding is worked on as well.
    """

    tokens: int | None = None
    responses: int | None = None


ALL = Room()


@overload
def line_of(mask: Bool[Array, "B T"], room: int) -> Line: ...
@overload
def line_of(mask: Bool[Array, "B T"], room: int | None) -> Line | None: ...
def line_of(mask: Bool[Array, "B T"], room: int | None) -> Line | None:
    """The line of the tokens that ``mask`` marks, which must be no more than ``room``; None without one."""
    if room is None:
        return None
    real = mask.reshape(-1)
    place = jnp.cumsum(real, dtype=jnp.int32) - 1
    slot = jnp.nonzero(real, size=room, fill_value=real.size)[0].astype(jnp.int32)
    return Line(slot, jnp.where(real, place, room).reshape(mask.shape))


@jax.custom_vjp
def _moved(x: Shaped[Array, "I *D"], there: Int[Array, "O"], back: Int[Array, "I"]) -> Shaped[Array, "O *D"]:
    """x[there], 0 beyond its end. ``back`` is the inverse: the gradient is gathered by it too, and never scattered."""
    return jnp.take(x, there, axis=0, mode="fill", fill_value=0)


def _moved_forward(x: jax.Array, there: jax.Array, back: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _moved(x, there, back), (there, back)


def _moved_backward(kept: tuple[jax.Array, jax.Array], out: jax.Array) -> tuple[jax.Array, None, None]:
    there, back = kept
    return _moved(out, back, there), None, None


_moved.defvjp(_moved_forward, _moved_backward)
