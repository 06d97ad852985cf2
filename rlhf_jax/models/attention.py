"""Grouped-query attention with rotary positions and an explicit key-value cache; ``kernels`` has the mixing itself."""

from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.models.kernels import Attend
from rlhf_jax.models.layout import place_keys
from rlhf_jax.models.lora import Dense
from rlhf_jax.models.norms import make_norm, normed
from rlhf_jax.models.rotary import Turns, rotate
from rlhf_jax.models.spec import DecoderSpec

LayerCache: TypeAlias = tuple[jax.Array, jax.Array]
# What belongs to the tokens that will be read, (B, N, *D), from what belongs to each, (B, T, *D).
Pick: TypeAlias = Callable[[jax.Array], jax.Array]


class Attention(nn.Module):
    """Attention over the tokens of the call, or over the cache after writing them into it."""

    spec: DecoderSpec

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        attend: Attend,
        turn: Turns | None,
        cache: LayerCache | None = None,
        slot: Int[Array, ""] | int = 0,
        pick: Pick | None = None,
    ) -> tuple[Float[Array, "B N D"], LayerCache]:
        """(what the tokens of ``pick`` found, keys and values that were looked at). With a cache the T tokens are
        written at ``slot`` first, and the whole of it is looked at; ``attend`` knows which of it by which token.

        Queries and keys are rotated by ``turn``; None: they are not.
        """
        spec = self.spec
        rows, length, _ = x.shape

        def project(name: str, heads: int) -> Float[Array, "B T H C"]:
            dense = Dense(
                heads * spec.head_dim,
                use_bias=spec.qkv_bias,
                dtype=spec.compute_dtype,
                param_dtype=spec.param_dtype,
                name=name,
            )
            return dense(x).reshape(rows, length, heads, spec.head_dim)

        query, key, value = project("q", spec.heads), project("k", spec.kv_heads), project("v", spec.kv_heads)
        if spec.qk_norm:
            query, key = normed(make_norm(spec, "q_norm"), query), normed(make_norm(spec, "k_norm"), key)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        # Heads before slots: decoding one token against a (B, H, S, C) cache reads it in order.
        key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
        if cache is not None:
            zero = jnp.zeros((), jnp.int32)
            start = (zero, zero, jnp.asarray(slot, jnp.int32), zero)
            key = jax.lax.dynamic_update_slice(cache[0], key.astype(cache[0].dtype), start)
            value = jax.lax.dynamic_update_slice(cache[1], value.astype(cache[1].dtype), start)
        key, value = place_keys(key), place_keys(value)
        mixed = attend(query, key, value).reshape(rows, length, spec.heads * spec.head_dim)
        if pick is not None:
            mixed = pick(mixed)
        out = Dense(
            spec.width, use_bias=spec.out_bias, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name="o"
        )
        return out(mixed), (key, value)
