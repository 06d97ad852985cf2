"""Sums and moments over the entries that a mask keeps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_sum(x: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Float[Array, ""]:
    """Sum of the kept entries; masked entries may hold anything, NaN included, and get a zero gradient."""
    return jnp.sum(jnp.where(mask, x, 0.0))


def masked_mean(x: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Float[Array, ""]:
    """Mean of the kept entries, 0 when none is kept."""
    return masked_sum(x, mask) / jnp.maximum(jnp.sum(mask), 1)


def whitening_factor(x: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Float[Array, ""]:
    """1 / sqrt(var + 1e-8) over the kept entries: what ``masked_whiten`` multiplies deviations from the mean by."""
    centred = jnp.where(mask, x - masked_mean(x, mask), 0.0)
    return jax.lax.rsqrt(jnp.sum(centred**2) / jnp.maximum(jnp.sum(mask), 1) + 1e-8)


def masked_whiten(x: Float[Array, "*S"], mask: Bool[Array, "*S"], *, shift_mean: bool = True) -> Float[Array, "*S"]:
    """(x - mean) / sqrt(var + 1e-8) over the kept entries, with the biased variance; masked entries become 0.

    With ``shift_mean=False`` the mean is put back after scaling. Source: Ziegler et al. 2019, released code.
    """
    mean = masked_mean(x, mask)
    whitened = jnp.where(mask, x - mean, 0.0) * whitening_factor(x, mask)
    return whitened if shift_mean else jnp.where(mask, whitened + mean, 0.0)
