"""Where activations lie on a mesh, said at the places that matter; elsewhere the compiler propagates it.

Without these words it may follow the parameters instead, and gather the rows of all devices on each.
"""

import math

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from rlhf_jax.types import DATA, FSDP, SEQUENCE, TENSOR

ROWS = (DATA, FSDP)


def mesh_in_use() -> AbstractMesh | None:
    """The mesh that a program is traced for, None on one device and where a program is mapped over devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if FSDP in mesh.axis_names and mesh.size > 1 else None


def platform() -> str:
    """What a program is traced for: cpu, gpu or tpu. Devices of a mesh may be others than those of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def place_hidden(x: jax.Array) -> jax.Array:
    """Hidden states (B, T, D): rows over data and fsdp, tokens over the sequence axis."""
    return _constrain(x, ROWS, SEQUENCE, None)


def place_keys(x: jax.Array) -> jax.Array:
    """Keys or values (B, H, S, C): heads over the tensor axis, every slot on every device of the sequence axis."""
    return _constrain(x, ROWS, TENSOR, None, None)


def _constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    mesh = mesh_in_use()
    if mesh is None:
        return x
    fitted = (name if size % shards_of(mesh, name) == 0 else None for name, size in zip(axes, x.shape, strict=True))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitted))


def shards_of(mesh: AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    """Into how many parts these axes of the mesh split what lies along them."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)
