"""Whether all numbers are finite, on the device."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def all_finite(*trees: Any) -> Bool[Array, ""]:
    """Whether no leaf holds a NaN or an infinity; integers, booleans and random keys cannot, and are not looked at."""
    leaves = (leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    return reduce(jnp.logical_and, (jnp.all(jnp.isfinite(leaf)) for leaf in leaves), jnp.bool_(True))


_compiled = jax.jit(all_finite)


def not_finite(tree: Any) -> list[str]:
    """The paths of the leaves that hold a NaN or an infinity; every process must ask. Waits for one number, and only
    where that is bad for more.
    """
    if bool(_compiled(tree)):
        return []
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not _compiled(leaf)]
