"""Running moments of a stream of numbers, batch by batch, without going back to what has passed."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.masked import masked_mean, masked_sum


class Moments(NamedTuple):
    """How many numbers there were, their mean, and the sum of their squared deviations from it."""

    seen: Float[Array, ""]
    mean: Float[Array, ""]
    squares: Float[Array, ""]


def no_moments() -> Moments:
    """Of nothing seen yet."""
    return Moments(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def add_batch(moments: Moments, x: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Moments:
    """The moments with the kept entries of ``x`` seen too. Chan, Golub, LeVeque 1979, equation (1.5)."""
    count, mean = jnp.sum(mask), masked_mean(x, mask)
    squares = masked_sum((x - mean) ** 2, mask)
    total = moments.seen + count
    apart, share = mean - moments.mean, count / jnp.maximum(total, 1)
    found = Moments(total, moments.mean + apart * share, moments.squares + squares + apart**2 * moments.seen * share)
    return Moments(*(new.astype(old.dtype) for new, old in zip(found, moments, strict=True)))


def deviation(moments: Moments, least: float = 1e-6) -> Float[Array, ""]:
    """The population standard deviation, not below ``least``; 1 while nothing has been seen."""
    variance = moments.squares / jnp.maximum(moments.seen, 1)
    return jnp.where(moments.seen > 0, jnp.maximum(jnp.sqrt(variance), least), 1.0)
