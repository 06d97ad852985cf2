"""Low-rank adapters (LoRA, Hu et al. 2021): beside a frozen kernel W the product of two thin matrices is trained.

An adapted layer computes x W + (alpha / r) (x A) B. Its leaves ``lora_a`` (in, r), ``lora_b`` (r, out) and
``lora_scale`` () stand beside ``kernel`` and are stacked as it is, so that parameters say themselves whether and how
they are adapted: nobody else has to know. What trains is said by ``trained``, not by stopping gradients: embeddings and
norms are frozen as well, and a frozen leaf costs neither a gradient, nor a sum over devices, nor moments.
"""

import dataclasses
import zlib
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.models.precision import product
from rlhf_jax.models.quantised import LEAVES as CODES
from rlhf_jax.models.quantised import dequantised, quantised_product
from rlhf_jax.types import Params

LEAVES = ("lora_a", "lora_b", "lora_scale")


@dataclasses.dataclass(frozen=True)
class LoRASpec:
    """The rank r, the numerator alpha of the scale, and the kernels of a layer that are adapted, by name."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


class Dense(nn.Module):
    """A dense layer as Linen's, which adds what an adapter says where its parameters hold one."""

    features: int
    use_bias: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Float[Array, "*S I"]) -> Float[Array, "*S O"]:
        shape = inputs.shape[-1], self.features
        inputs = inputs.astype(self.dtype)
        if self.has_variable("params", "kernel_codes"):
            out = quantised_product(inputs, *(jnp.asarray(self.get_variable("params", name)) for name in CODES))
        else:
            out = product(inputs, self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype))
        if self.use_bias:
            # Added in the parameters' own precision, so that its gradient, a sum over all tokens, is one too.
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            out = (out.astype(bias.dtype) + bias).astype(self.dtype)
        if self.has_variable("params", "lora_a"):
            a, b, scale = (jnp.asarray(self.get_variable("params", name)) for name in LEAVES)
            out += scale.astype(self.dtype) * product(product(inputs, a), b)
        return out


def add_adapters(spec: LoRASpec, params: Params, key: jax.Array) -> Params:
    """The parameters with an adapter beside every kernel that ``spec`` names, in all decoders that they hold.

    A is uniform in +-1 / sqrt(in), B is 0: the function is unchanged. Source: Hu et al. 2021, released code. Each
    kernel draws from a stream of its own, named by its path.

    Raises:
      KeyError: a decoder has no kernel of a name.
    """

    def add(path: str, layer: Params) -> Params:
        kernel = layer["kernel"]
        *stack, rows, columns = kernel.shape
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        limit = rows**-0.5
        return {
            **layer,
            "lora_a": jax.random.uniform(own, (*stack, rows, spec.rank), kernel.dtype, -limit, limit),
            "lora_b": jnp.zeros((*stack, spec.rank, columns), kernel.dtype),
            "lora_scale": jnp.full(stack, spec.alpha / spec.rank, kernel.dtype),
        }

    def change(tree: Params, path: str) -> Params:
        if "layers" not in tree:
            return {
                name: change(part, f"{path}/{name}") if isinstance(part, dict) else part for name, part in tree.items()
            }
        layers = tree["layers"]
        for target in spec.targets:
            where = ("attention", target) if target in layers["attention"] else (target,)
            layers = _replaced(layers, where, partial(add, f"{path}/{target}"))
        return {**tree, "layers": layers}

    return change(params, "")


def _replaced(tree: Params, where: tuple[str, ...], change: Callable[[Params], Params]) -> Params:
    name, *rest = where
    return {**tree, name: _replaced(tree[name], tuple(rest), change) if rest else change(tree[name])}


def has_adapters(params: Params) -> bool:
    """Whether any layer is adapted."""
    return "lora_a" in params or any(has_adapters(part) for part in params.values() if isinstance(part, dict))


def without_adapters(params: Params) -> Params:
    """The model beneath the adapters. It is made of the same arrays: nothing is copied."""
    return {
        name: without_adapters(part) if isinstance(part, dict) else part
        for name, part in params.items()
        if name not in LEAVES
    }


def merge(params: Params) -> Params:
    """A model without adapters that computes, but for rounding, what the adapted one does: W + (alpha / r) A B.

    What was frozen in fewer bits is float32 again, where it stands for as much.
    """
    if "lora_a" in params:
        a, b, scale = (params[name] for name in LEAVES)
        product = jnp.matmul(a, b, precision="highest")
        whole = merge(without_adapters(params))
        return {**whole, "kernel": whole["kernel"] + scale[..., None, None] * product}
    if CODES[0] in params:
        rest = {name: part for name, part in params.items() if name not in CODES}
        return {**rest, "kernel": dequantised(*(params[name] for name in CODES))}
    return {name: merge(part) if isinstance(part, dict) else _widened(part) for name, part in params.items()}


def _widened(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf


def trained(params: Params) -> Params:
    """The part of the parameters that learns: of an adapted decoder its A and B, of everything else all of it."""
    if "layers" in params and has_adapters(params):
        return _thin_matrices(params)
    return {name: trained(part) if isinstance(part, dict) else part for name, part in params.items()}


def _thin_matrices(params: Params) -> Params:
    kept = {}
    for name, part in params.items():
        if isinstance(part, dict):
            if below := _thin_matrices(part):
                kept[name] = below
        elif name in ("lora_a", "lora_b"):
            kept[name] = part
    return kept


def overlay(params: Params, part: Params) -> Params:
    """The parameters with those of ``part``, a tree with some of their leaves, in the place of their own."""
    return {
        name: (overlay(leaf, part[name]) if isinstance(leaf, dict) else part[name]) if name in part else leaf
        for name, leaf in params.items()
    }
