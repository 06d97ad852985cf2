"""Adafactor (Shazeer and Stern 2018) of parameters whose layers are stacked: every layer is a parameter of its own."""

from typing import Any

import jax
import optax

from rlhf_jax.types import Params

# Updates whose root mean square is larger are scaled down to it; the paper's d.
CLIP_RMS = 1.0


def scale_by_adafactor(factored_from: int, *, scale_parameter: bool) -> optax.GradientTransformation:
    """Gradients over the root of their second moment, whose root mean square is then at most 1.

    Of a matrix with at least ``factored_from`` rows and columns the second moment is kept as their means (R + C numbers
    for R x C); it forgets by the paper's schedule, 1 - t^-0.8, and needs no bias correction. There is no first moment.
    With ``scale_parameter`` a step is relative: it is multiplied by the root mean square of the parameter, of 1e-3 at
    least.
    """
    relative = [optax.scale_by_param_block_rms()] if scale_parameter else []
    return _per_layer(
        optax.chain(
            optax.scale_by_factored_rms(min_dim_size_to_factor=factored_from),
            optax.clip_by_block_rms(CLIP_RMS),
            *relative,
        )
    )


def _per_layer(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """``optimizer``, which must treat leaves apart, on each layer of stacked leaves and on other leaves as they are.

    Left to itself Optax factors the two longest axes, one of which may be that of the layers, and measures one root
    mean square for all layers of a stack. All stacks must have one depth: they are mapped over at once.
    """

    def init(params: Params) -> optax.OptState:
        out = _layer_axes(jax.eval_shape(optimizer.init, params))
        return _mapped(optimizer.init, (_layer_axes(params),), out)(params)

    def update(updates: Params, state: optax.OptState, params: Params | None = None) -> tuple[Params, optax.OptState]:
        axes, kept = _layer_axes(updates), _layer_axes(state)
        return _mapped(optimizer.update, (axes, kept, axes), (axes, kept))(updates, state, params)

    return optax.GradientTransformation(init, update)


def _mapped(function: Any, inputs: Any, outputs: Any) -> Any:
    return jax.vmap(function, inputs, outputs) if jax.tree.leaves(inputs) else function


def _layer_axes(tree: Any) -> Any:
    """0 for a leaf with a leading axis of layers, None for others; parameters, or what has their paths inside."""

    def axis(path: tuple[Any, ...], _: Any) -> int | None:
        return 0 if any(getattr(key, "key", None) == "layers" for key in path) else None

    return jax.tree_util.tree_map_with_path(axis, tree)
