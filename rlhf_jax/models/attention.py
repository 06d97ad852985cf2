"""Grouped-query attention with rotary positions and an explicit key-value cache."""

from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.lora import Dense
from rlhf_jax.models.spec import DecoderSpec

LayerCache: TypeAlias = tuple[jax.Array, jax.Array]


def rotate(x: Float[Array, "B T H C"], positions: Int[Array, "B T"], theta: float) -> Float[Array, "B T H C"]:
    """Rotary embedding of channel pairs (c, c + C/2) by the angle position * theta^(-2c/C). Su et al. 2021."""
    half = x.shape[-1] // 2
    wide = jnp.promote_types(x.dtype, jnp.float32)
    frequency = theta ** (-jnp.arange(half, dtype=wide) / half)
    angle = positions[:, :, None, None].astype(wide) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Attention over the tokens of the call, or over the cache after writing them into it."""

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
        """``mask[b, t, s]``: may token t look at slot s. With a cache the T tokens are written at ``slot`` first."""
        spec = self.spec
        rows, length, _ = x.shape

        def project(name: str, heads: int) -> Float[Array, "B T H C"]:
            dense = Dense(
                heads * spec.head_dim, use_bias=False, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name=name
            )
            return dense(x).reshape(rows, length, heads, spec.head_dim)

        query, key, value = project("q", spec.heads), project("k", spec.kv_heads), project("v", spec.kv_heads)
        if spec.positions == "rotary":
            query = rotate(query, positions, spec.rope_theta)
            key = rotate(key, positions, spec.rope_theta)
        # Heads before slots: decoding one token against a (B, H, S, C) cache reads it in order.
        key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
        if cache is not None:
            zero = jnp.zeros((), jnp.int32)
            start = (zero, zero, jnp.asarray(slot, jnp.int32), zero)
            key = jax.lax.dynamic_update_slice(cache[0], key.astype(cache[0].dtype), start)
            value = jax.lax.dynamic_update_slice(cache[1], value.astype(cache[1].dtype), start)
            cache = (key, value)
        grouped = query.reshape(rows, length, spec.kv_heads, spec.heads // spec.kv_heads, spec.head_dim)
        scores = jnp.einsum("btkgc,bksc->bkgts", grouped, key) * spec.head_dim**-0.5
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        # A large finite number, not -inf: a padding row sees no slot at all and must stay finite.
        scores = jnp.where(mask[:, None, None], scores, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(spec.compute_dtype)
        mixed = jnp.einsum("bkgts,bksc->btkgc", weights, value).reshape(rows, length, spec.heads * spec.head_dim)
        out = Dense(spec.width, use_bias=False, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name="o")(mixed)
        return out, cache
