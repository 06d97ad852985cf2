"""Where activations lie on a mesh, said at the places that matter; elsewhere the compiler propagates it.

Without these words it may follow the parameters instead, and gather the rows of all devices on each.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rlhf_jax.mesh import ROWS, mesh_in_use, shards_of
from rlhf_jax.sharding import partition_of
from rlhf_jax.types import FSDP, SEQUENCE, TENSOR, Params

# Parameters that products take in the compute dtype, whatever they are kept in.
_FACTORS = ("kernel", "lora_a", "lora_b", "embedding", "position_embedding", "output")


def place_hidden(x: jax.Array) -> jax.Array:
    """Hidden states (B, T, D): rows over data and fsdp, tokens over the sequence axis."""
    return _constrain(x, ROWS, SEQUENCE, None)


def place_keys(x: jax.Array) -> jax.Array:
    """Keys or values (B, H, S, C): heads over the tensor axis, every slot on every device of the sequence axis."""
    return _constrain(x, ROWS, TENSOR, None, None)


def gathered(params: Params, dtype: jnp.dtype) -> Params:
    """A decoder's parameters as a loop over tokens wants to find them: in the type that products take, and whole but
    for the tensor axis. In the loop each token would wait for both.
    """
    mesh = mesh_in_use()

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.rpartition("/")[2] in _FACTORS:
            leaf = leaf.astype(dtype)
        if mesh is None:
            return leaf
        split = (None if axis == FSDP else axis for axis in partition_of(name, leaf.shape, mesh))
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*split))

    return jax.tree_util.tree_map_with_path(one, params)


def _constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    if mesh_in_use() is None:
        return x
    fitted = (name if size % shards_of(name) == 0 else None for name, size in zip(axes, x.shape, strict=True))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitted))
