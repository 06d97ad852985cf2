"""The norms of a decoder."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.models.spec import DecoderSpec


class RMSNorm1p(nn.Module):
    """RMSNorm that multiplies by 1 + its weight, in float32 or wider. Source: Gemma Team 2024, released code."""

    epsilon: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (normed * (1.0 + scale)).astype(self.dtype)


_KINDS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm, "rms1p": RMSNorm1p}


def make_norm(spec: DecoderSpec, name: str) -> nn.Module:
    """The decoder's kind of norm over the last axis, a module called ``name``."""
    kind = _KINDS[spec.norm]
    return kind(epsilon=spec.norm_epsilon, dtype=spec.compute_dtype, param_dtype=spec.param_dtype, name=name)


def normed(norm: Callable[[jax.Array], jax.Array], x: Float[Array, "B *S D"]) -> Float[Array, "B *S D"]:
    """``norm(x)``. Where B is 1 that axis is left out meanwhile: of arrays that have an axis of length 1 a CPU's sums
    of products take up to ten times as long (docs/LOG.md, 2026-11-30), and a norm's gradient is made of them.
    """
    return norm(x[0])[None] if len(x) == 1 else norm(x)
