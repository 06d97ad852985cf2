"""Which axis of which parameter is split over which axis of the mesh.

The rules match a path in the whole train state: optimizer moments have the paths of their parameters inside them.
"""

import re

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from rlhf_jax.types import FSDP, TENSOR

# What an axis of a parameter is, and the axis of the mesh that it is split over.
SPLIT_OVER = {"width": FSDP, "heads": TENSOR, "kv_heads": TENSOR, "mlp_width": TENSOR, "vocabulary": TENSOR}
# Nobody chooses the size of a published vocabulary: one that the mesh does not divide is held whole.
MAY_BE_WHOLE = ("vocabulary",)

# Stacked layers have a leading layer axis, which is never split, and neither is the one that the members of an ensemble
# have before it. Heads stand for all their channels.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    # Adafactor's means of a second moment over rows and over columns are vectors.
    (r"(^|/)v_(row|col)/", ()),
    (r"layers/attention/q/kernel(_codes)?$", (None, "width", "heads")),
    (r"layers/attention/[kv]/kernel(_codes)?$", (None, "width", "kv_heads")),
    (r"layers/attention/o/kernel(_codes)?$", (None, "heads", "width")),
    (r"layers/(gate|up)/kernel(_codes)?$", (None, "width", "mlp_width")),
    (r"layers/down/kernel(_codes)?$", (None, "mlp_width", "width")),
    # Scales of a quantised kernel: one for each output, or for so many of its inputs.
    (r"layers/attention/q/kernel_scale$", (None, None, "heads")),
    (r"layers/attention/[kv]/kernel_scale$", (None, None, "kv_heads")),
    (r"layers/(gate|up)/kernel_scale$", (None, None, "mlp_width")),
    (r"layers/(attention/o|down)/kernel_scale$", (None, None, "width")),
    # Of an adapter's two matrices each has one axis of its kernel; the other, the rank, is small.
    (r"layers/(attention/[qkv]|gate|up)/lora_a$", (None, "width", None)),
    (r"layers/attention/q/lora_b$", (None, None, "heads")),
    (r"layers/attention/[kv]/lora_b$", (None, None, "kv_heads")),
    (r"layers/(gate|up)/lora_b$", (None, None, "mlp_width")),
    (r"layers/attention/o/lora_a$", (None, "heads", None)),
    (r"layers/down/lora_a$", (None, "mlp_width", None)),
    (r"layers/(attention/o|down)/lora_b$", (None, None, "width")),
    (r"(^|/)embedding$", ("vocabulary", "width")),
    (r"(^|/)position_embedding$", (None, "width")),
    (r"(^|/)output$", ("width", "vocabulary")),
)


def partition_of(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The rule for one leaf; a leaf without a rule is left whole.

    Raises:
      ValueError: the mesh does not divide an axis that has to be split.
    """
    if shape[-1:] == (1,) and re.search(r"(^|/)\d+/v/", path):
        return PartitionSpec()  # what stands in the place of a second moment of which Adafactor has the means
    for pattern, names in RULES:
        if re.search(pattern, path):
            members = len(shape) - len(names)
            axes = (_axis(path, name, size, mesh) for name, size in zip(names, shape[members:], strict=True))
            return PartitionSpec(*[None] * members, *axes)
    return PartitionSpec()


def _axis(path: str, name: str | None, size: int, mesh: Mesh | AbstractMesh) -> str | None:
    if name is None:
        return None
    axis = SPLIT_OVER[name]
    if size % mesh.shape[axis] == 0:
        return axis
    if name in MAY_BE_WHOLE:
        return None
    raise ValueError(f"{path}: {name} of {size} cannot be split evenly over {axis}={mesh.shape[axis]}")


def tree_shardings(tree: object, mesh: Mesh) -> object:
    """The sharding of each leaf of a state (arrays or their shapes)."""

    def leaf_sharding(path: tuple, leaf: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_of(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)
