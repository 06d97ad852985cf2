"""The decoder: pure ``init`` and ``apply`` around Linen blocks whose parameters are stacked over layers."""

from typing import Any, TypeAlias, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.attention import Attention, LayerCache
from rlhf_jax.models.lora import Dense
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

Cache: TypeAlias = tuple[LayerCache, ...]


def _norm(spec: DecoderSpec, name: str) -> nn.Module:
    kind = nn.RMSNorm if spec.norm == "rms" else nn.LayerNorm
    return kind(epsilon=spec.norm_epsilon, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name=name)


class Block(nn.Module):
    """One pre-norm layer: attention, then the feed-forward network."""

    spec: DecoderSpec

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        cache: LayerCache | None = None,
        slot: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        spec = self.spec

        def dense(features: int, name: str) -> Dense:
            return Dense(features, use_bias=False, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name=name)

        mixed, cache = Attention(spec, name="attention")(_norm(spec, "attention_norm")(x), positions, mask, cache, slot)
        x = x + mixed
        y = _norm(spec, "mlp_norm")(x)
        if spec.activation == "swiglu":
            y = nn.silu(dense(spec.mlp_width, "gate")(y)) * dense(spec.mlp_width, "up")(y)
        else:
            y = nn.gelu(dense(spec.mlp_width, "up")(y))
        return x + dense(spec.width, "down")(y), cache


def init_decoder(spec: DecoderSpec, key: jax.Array) -> Params:
    """Fresh parameters, a plain nested dict; the leaves under ``layers`` have a leading axis of length depth."""
    key_embed, key_position, key_layers, key_head = jax.random.split(key, 4)
    dtype = spec.param_dtype
    x = jnp.zeros((1, 1, spec.width), spec.compute_dtype)
    position, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)

    def init_layer(layer_key: jax.Array) -> Params:
        return Block(spec).init(layer_key, x, position, mask)["params"]

    def normal(some_key: jax.Array, *shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(some_key, shape, dtype)

    params: Params = {
        "embedding": normal(key_embed, spec.vocab_size, spec.width),
        "layers": jax.vmap(init_layer)(jax.random.split(key_layers, spec.depth)),
        "final_norm": _norm(spec, "final_norm").init(key_head, x)["params"],
    }
    if spec.positions == "learned":
        params["position_embedding"] = normal(key_position, spec.max_positions, spec.width)
    if not spec.tied:
        params["output"] = normal(key_head, spec.width, spec.vocab_size)
    return params


def init_cache(spec: DecoderSpec, rows: int, slots: int) -> Cache:
    """An empty cache: per layer, keys and values of shape (rows, kv_heads, slots, head_dim)."""
    empty = jnp.zeros((rows, spec.kv_heads, slots, spec.head_dim), spec.compute_dtype)
    return tuple((empty, empty) for _ in range(spec.depth))


@overload
def apply_decoder(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    mask: Bool[Array, "B T S"],
) -> tuple[Float[Array, "B T D"], None]: ...


@overload
def apply_decoder(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    mask: Bool[Array, "B T S"],
    cache: Cache,
    slot: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "B T D"], Cache]: ...


def apply_decoder(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    mask: Bool[Array, "B T S"],
    cache: Cache | None = None,
    slot: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """Final hidden states of the tokens ``ids``, and the cache with these tokens written at ``slot`` on.

    ``positions[b, t]`` counts the real tokens before it, from 0. Without a cache S = T and layers are scanned; with
    one, S is the number of slots and layers are unrolled, for a scan would copy the cache at every token.
    """
    x = params["embedding"][ids].astype(spec.compute_dtype)
    if spec.positions == "learned":
        x = x + params["position_embedding"][positions].astype(spec.compute_dtype)
    block = Block(spec)
    if cache is None:

        def layer(x: Float[Array, "B T D"], layer_params: Params) -> tuple[Float[Array, "B T D"], None]:
            applied: Any = block.apply({"params": layer_params}, x, positions, mask)
            return applied[0], None

        x, _ = jax.lax.scan(layer, x, params["layers"])
    else:
        layers = []
        for index, layer_cache in enumerate(cache):
            layer_params = jax.tree.map(lambda leaf, i=index: leaf[i], params["layers"])
            applied: Any = block.apply({"params": layer_params}, x, positions, mask, layer_cache, slot)
            x = applied[0]
            layers.append(applied[1])
        cache = tuple(layers)
    hidden: Any = _norm(spec, "final_norm").apply({"params": params["final_norm"]}, x)
    return hidden, cache


def output_logits(spec: DecoderSpec, params: Params, hidden: Float[Array, "*S D"]) -> Float[Array, "*S V"]:
    """Next-token logits of hidden states, in the compute dtype."""
    kernel = params["embedding"].T if spec.tied else params["output"]
    return hidden @ kernel.astype(spec.compute_dtype)
