"""How the next token is drawn."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """temperature 0 is greedy; top_k 0 and top_p 1 keep the whole vocabulary. Ties with the k-th token are kept too."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def sample_token(spec: SamplingSpec, key: jax.Array, logits: Float[Array, "V"]) -> Int[Array, ""]:
    """One token id from softmax(logits / temperature), restricted to the top-k tokens and then to the top-p nucleus.

    The nucleus is the smallest set of most probable tokens whose total probability reaches top_p.
    """
    if spec.temperature == 0.0:
        return jnp.argmax(logits)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / spec.temperature
    if spec.top_k > 0:
        kth = jax.lax.top_k(logits, min(spec.top_k, logits.shape[0]))[0][-1]
        logits = jnp.where(logits >= kth, logits, -jnp.inf)
    if spec.top_p < 1.0:
        descending = jnp.sort(logits)[::-1]
        probability = jax.nn.softmax(descending)
        # Kept while the mass *before* a token is short of top_p, so that the first token always stays.
        kept = jnp.cumsum(probability) - probability < spec.top_p
        logits = jnp.where(logits >= jnp.min(jnp.where(kept, descending, jnp.inf)), logits, -jnp.inf)
    return jax.random.categorical(key, logits)
