"""Frozen kernels in few bits, as in QLoRA (Dettmers et al. 2023): codes and scales by qwix stand in a kernel's place.

A layer then has ``kernel_codes`` and ``kernel_scale`` instead of ``kernel``, stacked as it was, and parameters say
themselves how they are kept. By type of the codes:

- int8 (I, O), a scale for each output (1, O): the largest of its inputs over 127.5;
- uint8 (I / 2, O), the largest of each 64 inputs of an output as their scale (I / 64, O): NF4, in a byte the codes of
  inputs 2i and 2i + 1, each a place among the 16 values of a normal distribution that the paper gives.

Kernels are made again where they are used, layer by layer, in the backward pass too.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from rlhf_jax.errors import UserError
from rlhf_jax.types import Params

LEAVES = ("kernel_codes", "kernel_scale")
BLOCK = 64  # inputs under one scale of NF4, or the largest number that divides both these and a kernel's
# Tables that stand beside the layers; in QLoRA they keep 16 bits.
_TABLES = ("embedding", "position_embedding", "output")


def _qwix() -> Any:
    try:
        import qwix
    except ImportError:
        text = "config.lora.base: int8 and nf4 are made by qwix, which is not installed: pip install 'rlhf_jax[quant]'"
        raise UserError(text) from None
    return qwix


def check_quantiser(base: str) -> None:
    """Raise UserError if what ``base`` is made by is not installed."""
    if base in ("int8", "nf4"):
        _qwix()


def quantised(base: str, params: Params) -> Params:
    """The parameters with the decoders that they hold kept as ``base``: float32, bfloat16, int8 or nf4.

    Kernels of layers become codes; embeddings and output, which have none, bfloat16. Norms, biases, adapters and heads
    stay as they are.

    Raises:
      UserError: qwix is not installed.
    """
    if base == "float32":
        return params
    if "layers" not in params:
        return {name: quantised(base, part) if isinstance(part, dict) else part for name, part in params.items()}
    narrow = {name: params[name].astype(jnp.bfloat16) for name in _TABLES if name in params}
    return {**params, **narrow, "layers": _layers(base, params["layers"])}


def _layers(base: str, params: Params) -> Params:
    kept: Params = {}
    for name, part in params.items():
        if isinstance(part, dict):
            kept[name] = _layers(base, part)
        elif name != "kernel":
            kept[name] = part
        else:
            kept |= {name: part.astype(jnp.bfloat16)} if base == "bfloat16" else _codes(base, part)
    return kept


def _codes(base: str, kernel: Float[Array, "*S I O"]) -> Params:
    columns = tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2)
    if base == "int8":
        made = _qwix().quantize(kernel, "int8", channelwise_axes=columns)
        return {"kernel_codes": made.qvalue, "kernel_scale": made.scale}
    blocks = {kernel.ndim - 2: math.gcd(kernel.shape[-2], BLOCK)}
    made = _qwix().quantize(kernel, "nf4", channelwise_axes=columns, tiled_axes=blocks)
    codes = made.qvalue.astype(jnp.uint8)
    return {"kernel_codes": codes[..., ::2, :] | codes[..., 1::2, :] << 4, "kernel_scale": made.scale}


def is_quantised(params: Params) -> bool:
    """Whether any kernel is kept as codes."""
    return LEAVES[0] in params or any(is_quantised(part) for part in params.values() if isinstance(part, dict))


def dequantised(codes: Integer[Array, "*S P O"], scale: Float[Array, "*S N O"]) -> Float[Array, "*S I O"]:
    """The kernel that codes and scales stand for."""
    kind = "int8"
    if codes.dtype == jnp.uint8:
        *stack, pairs, outputs = codes.shape
        both = jnp.stack([codes & 15, codes >> 4], axis=-2).reshape(*stack, 2 * pairs, outputs)
        codes, kind = both.astype(jnp.uint4), "nf4"
    qwix = _qwix()
    made: jax.Array = qwix.dequantize(qwix.QArray(codes, scale, None, kind))
    return made


@jax.custom_vjp
def quantised_product(
    x: Float[Array, "*S I"], codes: Integer[Array, "P O"], scale: Float[Array, "N O"]
) -> Float[Array, "*S O"]:
    """x W in the type of ``x``. Codes and scales have no gradient, and of W nothing is kept for that of ``x``."""
    return _forward(x, codes, scale)[0]


def _forward(x: jax.Array, codes: jax.Array, scale: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Bound to x, or the compiler would make every layer's kernel before a loop over tokens, and hold them all.
    bound, own, sizes = jax.lax.optimization_barrier((x, codes, scale))
    return bound @ dequantised(own, sizes).astype(x.dtype), (codes, scale)


def _backward(kept: tuple[jax.Array, jax.Array], out: jax.Array) -> tuple[jax.Array, None, None]:
    return out @ dequantised(*kept).astype(out.dtype).T, None, None


quantised_product.defvjp(_forward, _backward)
