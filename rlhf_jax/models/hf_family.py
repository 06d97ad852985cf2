"""What a family of architectures in ``transformers`` has to say to be written and read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

# Tensors by their names in model.safetensors.
Tensors: TypeAlias = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture, both ways: settings of a decoder and of ``config.json``, parameters and named tensors.

    ``style`` is what the decoder's norm, positions and activation must be. ``fields`` gives what a ``DecoderSpec`` is
    made of, without ``kv_heads`` where the architecture has no such thing. ``tensors`` leaves heads out; ``decoder``
    takes what it reads out of the mapping, raises KeyError for what is missing and ValueError for what it cannot hold.
    """

    name: str
    model_type: str
    style: Mapping[str, str]
    settings: Callable[[DecoderSpec], dict[str, Any]]
    fields: Callable[[Mapping[str, Any]], dict[str, Any]]
    tensors: Callable[[DecoderSpec, Params], Tensors]
    decoder: Callable[[DecoderSpec, Tensors], Params]


def as_numpy(leaf: jax.Array | np.ndarray) -> Float[np.ndarray, "..."]:
    """A parameter as a float32 array in C order, which is what safetensors writes."""
    return np.ascontiguousarray(leaf, np.float32)


def transposed(kernel: Float[np.ndarray, "I O"]) -> Float[np.ndarray, "O I"]:
    """A kernel (inputs, outputs) as the weight (outputs, inputs) of a linear layer, or back."""
    return np.ascontiguousarray(kernel.T)


def stacked(layers: list[Params]) -> Params:
    """The parameters of all layers as one tree whose leaves have a leading axis of length depth."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *layers)
