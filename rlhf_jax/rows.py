"""Rows of a batch one by one, whatever their number."""

from collections.abc import Callable
from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def each_row(function: Callable[..., Tree], *arrays: jax.Array) -> Tree:
    """``jax.vmap``, but without an axis for rows where there is but one: of arrays that have an axis of length 1 a
    CPU's sums of products take up to ten times as long (docs/LOG.md, 2026-11-30).
    """
    if len(arrays[0]) > 1:
        return jax.vmap(function)(*arrays)
    return jax.tree.map(lambda leaf: leaf[None], function(*(array[0] for array in arrays)))
