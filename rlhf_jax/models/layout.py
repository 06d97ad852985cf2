"""Where activations lie on a mesh, said at the places that matter; elsewhere the compiler propagates it.

Without these words it may follow the parameters instead, and gather the rows of all devices on each.
"""

import jax
from jax.sharding import PartitionSpec

from rlhf_jax.mesh import ROWS, mesh_in_use, shards_of
from rlhf_jax.types import SEQUENCE, TENSOR


def place_hidden(x: jax.Array) -> jax.Array:
    """Hidden states (B, T, D): rows over data and fsdp, tokens over the sequence axis."""
    return _constrain(x, ROWS, SEQUENCE, None)


def place_keys(x: jax.Array) -> jax.Array:
    """Keys or values (B, H, S, C): heads over the tensor axis, every slot on every device of the sequence axis."""
    return _constrain(x, ROWS, TENSOR, None, None)


def _constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    if mesh_in_use() is None:
        return x
    fitted = (name if size % shards_of(name) == 0 else None for name, size in zip(axes, x.shape, strict=True))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitted))
