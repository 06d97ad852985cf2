"""Attention masks and positions of padded and packed rows."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

# The score of what a token may not see: a large finite number, not -inf, for a padding row sees no slot at all and must
# stay finite.
UNSEEN = -1e30


def positions_of(mask: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """For each token the number of real tokens before it, whichever side the padding is on."""
    return jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)


def segment_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Token t sees the tokens s <= t of its own segment; segment 0 is padding and is seen by none."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    return same & jnp.tril(jnp.ones((length, length), bool))[None] & (segments > 0)[:, None, :]


def window_mask(mask: Bool[Array, "B T S"], window: int) -> Bool[Array, "B T S"]:
    """Of the slots that each token may see, the last ``window``, its own among them; padding does not count."""
    since = jnp.cumsum(mask[:, :, ::-1], axis=2, dtype=jnp.int32)[:, :, ::-1]
    return mask & (since <= window)
