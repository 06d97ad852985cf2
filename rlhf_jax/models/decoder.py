"""The decoder: pure ``init`` and ``apply`` around Linen blocks whose parameters are stacked over layers."""

from typing import Any, TypeAlias, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.attention import Attention, LayerCache
from rlhf_jax.models.lora import Dense
from rlhf_jax.models.masks import window_mask
from rlhf_jax.models.norms import make_norm
from rlhf_jax.models.rotary import frequencies
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

Cache: TypeAlias = tuple[LayerCache, ...]


class Block(nn.Module):
    """One pre-norm layer: attention, then the feed-forward network."""

    spec: DecoderSpec

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        frequency: Float[Array, "F"] | None,
        cache: LayerCache | None = None,
        slot: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        spec = self.spec
        y = make_norm(spec, "attention_norm")(x)
        mixed, cache = Attention(spec, name="attention")(y, positions, mask, frequency, cache, slot)
        if spec.post_norms:
            mixed = make_norm(spec, "attention_post_norm")(mixed)
        if spec.parallel:
            return x + mixed + self._feed_forward(make_norm(spec, "mlp_norm")(x)), cache
        x = x + mixed
        y = self._feed_forward(make_norm(spec, "mlp_norm")(x))
        if spec.post_norms:
            y = make_norm(spec, "mlp_post_norm")(y)
        return x + y, cache

    def _feed_forward(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        spec = self.spec

        def dense(features: int, name: str) -> Dense:
            return Dense(
                features, use_bias=spec.mlp_bias, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name=name
            )

        if spec.activation in ("swiglu", "geglu"):
            squash = nn.silu if spec.activation == "swiglu" else nn.gelu
            hidden = squash(dense(spec.mlp_width, "gate")(x)) * dense(spec.mlp_width, "up")(x)
        else:
            hidden = nn.gelu(dense(spec.mlp_width, "up")(x), approximate=spec.activation == "gelu")
        return dense(spec.width, "down")(hidden)


def _frequencies(spec: DecoderSpec) -> dict[bool, Float[Array, "F"] | None]:
    """Of local layers (True) and of the others; None without rotary positions."""
    if spec.positions != "rotary":
        return {False: None, True: None}
    wide = jnp.promote_types(spec.compute_dtype, jnp.float32)
    every = frequencies(spec.rotary_dim, spec.rope_theta, spec.rope_scaling, wide)
    own = frequencies(spec.rotary_dim, spec.local_rope_theta, None, wide) if spec.local_rope_theta else every
    return {False: every, True: own}


def init_decoder(spec: DecoderSpec, key: jax.Array) -> Params:
    """Fresh parameters, a plain nested dict; the leaves under ``layers`` have a leading axis of length depth."""
    key_embed, key_position, key_layers, key_head = jax.random.split(key, 4)
    dtype = spec.param_dtype
    x = jnp.zeros((1, 1, spec.width), spec.compute_dtype)
    position, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)

    def init_layer(layer_key: jax.Array) -> Params:
        return Block(spec).init(layer_key, x, position, mask, _frequencies(spec)[False])["params"]

    def normal(some_key: jax.Array, *shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(some_key, shape, dtype)

    params: Params = {
        "embedding": normal(key_embed, spec.vocab_size, spec.width),
        "layers": jax.vmap(init_layer)(jax.random.split(key_layers, spec.depth)),
        "final_norm": make_norm(spec, "final_norm").init(key_head, x)["params"],
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
    if spec.scaled_embeddings:
        x = x * jnp.asarray(spec.width**0.5, spec.compute_dtype)
    if spec.positions == "learned":
        x = x + params["position_embedding"][positions].astype(spec.compute_dtype)
    block = Block(spec)
    frequency = _frequencies(spec)
    masks = {False: mask, True: window_mask(mask, spec.window) if spec.window else mask}
    kinds = spec.local or (False,) * spec.depth
    if cache is None:

        def layer(x: Float[Array, "B T D"], scanned: tuple[Params, Any]) -> tuple[Float[Array, "B T D"], None]:
            layer_params, local = scanned
            seen, turning = _choose(masks, local), _choose(frequency, local)
            applied: Any = block.apply({"params": layer_params}, x, positions, seen, turning)
            return applied[0], None

        # A pattern is data of the scan: layers of both kinds are one compiled body.
        mixed = jnp.asarray(kinds) if len(set(kinds)) > 1 else None
        if mixed is None:
            x, _ = jax.lax.scan(lambda x, one: layer(x, (one, kinds[0])), x, params["layers"])
        else:
            x, _ = jax.lax.scan(layer, x, (params["layers"], mixed))
    else:
        layers = []
        for index, layer_cache in enumerate(cache):
            layer_params = jax.tree.map(lambda leaf, i=index: leaf[i], params["layers"])
            seen, turning = masks[kinds[index]], frequency[kinds[index]]
            applied: Any = block.apply({"params": layer_params}, x, positions, seen, turning, layer_cache, slot)
            x = applied[0]
            layers.append(applied[1])
        cache = tuple(layers)
    hidden: Any = make_norm(spec, "final_norm").apply({"params": params["final_norm"]}, x)
    return hidden, cache


def output_logits(spec: DecoderSpec, params: Params, hidden: Float[Array, "*S D"]) -> Float[Array, "*S V"]:
    """Next-token logits of hidden states, in the compute dtype."""
    kernel = params["embedding"].T if spec.tied else params["output"]
    logits = hidden @ kernel.astype(spec.compute_dtype)
    return spec.logit_softcap * jnp.tanh(logits / spec.logit_softcap) if spec.logit_softcap else logits


def _choose(of_kind: dict[bool, Any], local: Any) -> Any:
    """What layers of a kind take, where the kind may be known only when the program runs."""
    if isinstance(local, bool):
        return of_kind[local]
    if of_kind[True] is of_kind[False]:
        return of_kind[False]
    return jnp.where(local, of_kind[True], of_kind[False])
