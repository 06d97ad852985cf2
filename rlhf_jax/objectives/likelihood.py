"""Log-probabilities of tokens, in nats."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_logprobs(
    logits: Float[Array, "T V"], targets: Int[Array, "T"], temperature: float | Float[Array, ""] = 1.0
) -> Float[Array, "T"]:
    """log p(targets[t]) in nats, for t in [0, T), under softmax(logits[t] / temperature), in at least float32."""
    scaled = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    chosen = jnp.take_along_axis(scaled, targets[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(scaled, axis=-1)


def token_entropy(logits: Float[Array, "T V"], temperature: float | Float[Array, ""] = 1.0) -> Float[Array, "T"]:
    """Entropy in nats of softmax(logits[t] / temperature), for t in [0, T)."""
    logp = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature, axis=-1)
    return -jnp.sum(jnp.exp(logp) * logp, axis=-1)
