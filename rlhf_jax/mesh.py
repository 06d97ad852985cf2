"""What a program is traced for: the mesh and the platform, which may be others than those of this machine."""

import math

import jax
from jax.sharding import AbstractMesh

from rlhf_jax.types import DATA, FSDP

ROWS = (DATA, FSDP)  # the axes that the rows of a batch are split over


def mesh_in_use() -> AbstractMesh | None:
    """The mesh, None on one device and where a program is mapped over devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if FSDP in mesh.axis_names and mesh.size > 1 else None


def platform() -> str:
    """cpu, gpu or tpu."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def shards_of(axes: str | tuple[str, ...] | None) -> int:
    """Into how many parts these axes of the mesh in use split what lies along them."""
    mesh, names = mesh_in_use(), (axes,) if isinstance(axes, str) else axes or ()
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in names)
