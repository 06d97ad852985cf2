"""Which parameters Muon (Jordan et al. 2024) moves, and how far: the matrices of the layers, each by itself."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from rlhf_jax.types import Params

# Kernels, and the two matrices of an adapter; what else stands in a layer is a vector.
MATRICES = ("kernel", "lora_a", "lora_b")
# The last two axes are those of the matrix. What comes before, layers and members, is a stack of matrices.
MATRIX_AXES = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)


def labels(params: Params) -> Any:
    """``matrices`` for what Muon moves, ``rest`` for embeddings, output, heads, norms and biases."""

    def label(path: tuple[Any, ...], _: Any) -> str:
        keys = [getattr(key, "key", None) for key in path]
        return "matrices" if "layers" in keys and keys[-1] in MATRICES else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def scale_by_muon(momentum: float, update_rms: float) -> optax.GradientTransformation:
    """The direction U V^T of the momentum's singular value decomposition, roughly, for each matrix of a stack.

    U V^T of R x C has a root mean square of 1 / sqrt(max(R, C)); it is scaled to ``update_rms``. Source: Liu et al.
    2025, who find 0.2 to be that of AdamW's updates, so that both can have one learning rate.
    """
    orthogonal = optax.contrib.scale_by_muon(
        beta=momentum, weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: MATRIX_AXES, tree)
    )

    def scaled(update: Float[Array, "*S R C"], _: Any) -> Float[Array, "*S R C"]:
        return update_rms * max(update.shape[-2:]) ** 0.5 * update

    return optax.chain(orthogonal, optax.stateless_with_tree_map(scaled))
