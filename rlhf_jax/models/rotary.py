"""Rotary positions: how fast each pair of channels turns, and the turn itself."""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.mesh import platform
from rlhf_jax.models.spec import RopeScaling

Turns: TypeAlias = tuple[Float[Array, "B T F"], Float[Array, "B T F"]]  # cosines and sines of F pairs of channels


def frequencies(size: int, theta: float, scaling: RopeScaling | None, dtype: jnp.dtype) -> Float[Array, "F"]:
    """Radians per position of the size / 2 pairs of channels: theta^(-2c/size), scaled. Su et al. 2021."""
    half = size // 2
    plain = theta ** (-jnp.arange(half, dtype=dtype) / half)
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":  # source: Dubey et al. 2024, released code
        turns = scaling.original * plain / (2 * math.pi)
        kept = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
    else:  # source: Peng et al. 2023, released code
        kept = 1.0 - _ramp(size, theta, scaling, dtype)
    return kept * plain + (1.0 - kept) * plain / scaling.factor


def _ramp(size: int, theta: float, scaling: RopeScaling, dtype: jnp.dtype) -> Float[Array, "F"]:
    """0 for the channels that make ``high`` turns or more over the original positions, 1 from ``low`` turns down."""

    def channel(turns: float) -> float:
        return size * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = channel(scaling.high), channel(scaling.low)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    span = last - first or 0.001
    return jnp.clip((jnp.arange(size // 2, dtype=dtype) - first) / span, 0.0, 1.0)


def turns(positions: Int[Array, "B T"], frequency: Float[Array, "F"], gain: float = 1.0) -> Turns:
    """Cosine and sine of position * frequency[c], times ``gain``."""
    angle = positions[:, :, None].astype(frequency.dtype) * frequency
    if platform() == "cpu":
        # In a loop, out of which the compiler does not take them, to make them anew for every head of every layer.
        cos, sin = jax.lax.map(lambda which: jax.lax.switch(which, (jnp.cos, jnp.sin), angle), jnp.arange(2))
    else:
        cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (cos, sin) if gain == 1.0 else (gain * cos, gain * sin)


def rotate(x: Float[Array, "B T H C"], turn: Turns) -> Float[Array, "B T H C"]:
    """Turn the channel pairs (c, c + F) by the angle of ``turn`` at [b, t, c]; channels from 2F on stay as they are."""
    cos, sin = (one[:, :, None] for one in turn)
    pairs = cos.shape[-1]
    first, second = jnp.split(x[..., : 2 * pairs].astype(cos.dtype), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
    return turned if 2 * pairs == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * pairs :]], axis=-1)
