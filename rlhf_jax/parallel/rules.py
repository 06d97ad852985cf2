"""Which axis of which parameter is split over which axis of the mesh.

The rules match a path in the whole train state: optimizer moments have the paths of their parameters inside them.
"""

import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlhf_jax.types import FSDP, TENSOR

# Stacked layers have a leading layer axis, which is never split, and neither is the one that the members of an ensemble
# have before it.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"layers/attention/[qkv]/kernel$", PartitionSpec(None, FSDP, TENSOR)),
    (r"layers/attention/o/kernel$", PartitionSpec(None, TENSOR, FSDP)),
    (r"layers/(gate|up)/kernel$", PartitionSpec(None, FSDP, TENSOR)),
    (r"layers/down/kernel$", PartitionSpec(None, TENSOR, FSDP)),
    # Of an adapter's two matrices each has one axis of its kernel; the other, the rank, is small.
    (r"layers/(attention/[qkv]|gate|up)/lora_a$", PartitionSpec(None, FSDP, None)),
    (r"layers/(attention/[qkv]|gate|up)/lora_b$", PartitionSpec(None, None, TENSOR)),
    (r"layers/(attention/o|down)/lora_a$", PartitionSpec(None, TENSOR, None)),
    (r"layers/(attention/o|down)/lora_b$", PartitionSpec(None, None, FSDP)),
    (r"(^|/)embedding$", PartitionSpec(TENSOR, FSDP)),
    (r"(^|/)position_embedding$", PartitionSpec(None, FSDP)),
    (r"(^|/)output$", PartitionSpec(FSDP, TENSOR)),
)


def partition_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The rule for one leaf; an axis that the mesh does not divide is left whole, and so is a leaf without a rule."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            members = len(shape) - len(spec)
            fitted = (
                name if name and size % mesh.shape[name] == 0 else None
                for name, size in zip(spec, shape[members:], strict=True)
            )
            return PartitionSpec(*[None] * members, *fitted)
    return PartitionSpec()


def tree_shardings(tree: object, mesh: Mesh) -> object:
    """The sharding of each leaf of a state (arrays or their shapes)."""

    def leaf_sharding(path: tuple, leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_of(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)
