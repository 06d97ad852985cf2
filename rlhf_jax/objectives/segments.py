"""Fine-grained rewards: what the parts of a response are trained on, and how they become rewards of tokens.

Source: Wu et al. 2023, arXiv 2306.01693, sections 2 and 3.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.numeric import label_loss

Value = Literal["sign", "probability", "logit"]


def segment_losses(
    *, logits: Float[Array, "T A"], labels: Float[Array, "T A"]
) -> tuple[Float[Array, "A"], Bool[Array, "A"]]:
    """(mean binary cross-entropy of the segments of each aspect in nats, whether there are any) of ONE response.

    ``labels`` in [0, 1] stand at the last token of each segment, NaN elsewhere, where ``logits`` may hold anything.
    A mean over the segments: an aspect of many tokens does not drown one of the whole response.
    """
    labelled = ~jnp.isnan(labels)

    def one(logits: Float[Array, "T"], labels: Float[Array, "T"], mask: Bool[Array, "T"]) -> Float[Array, ""]:
        return label_loss(rewards=logits, labels=labels, mask=mask, bounded=False)

    return jax.vmap(one, 1)(logits, labels, labelled), jnp.any(labelled, axis=0)


def segment_values(logits: Float[Array, "*S"], value: Value) -> Float[Array, "*S"]:
    """R of a segment from the logit of its being good: +1 or -1 by class, the probability, or the logit itself."""
    if value == "sign":
        return jnp.where(logits >= 0, 1.0, -1.0).astype(logits.dtype)
    return jax.nn.sigmoid(logits) if value == "probability" else logits


def dense_rewards(
    *, values: Float[Array, "R A"], ends: Float[Array, "R A"], weights: Float[Array, "A"]
) -> Float[Array, "R"]:
    """r_t = sum_a sum_j 1[t = T_j^a] w_a R_a(x, y, j), without the KL term, for t in [0, R).

    ``ends[t, a]`` counts the segments of aspect a whose last token is t; where there is none ``values`` may hold
    anything and the reward is 0.
    """
    paid = jnp.where(ends > 0, ends * values, 0.0)
    return jnp.sum(weights * paid, axis=-1)


def paid_at_end(rewards: Float[Array, "R"], mask: Bool[Array, "R"]) -> Float[Array, "R"]:
    """All rewards of ONE response at its last token: the same return, without telling which part earned it."""
    last = jnp.arange(mask.shape[0]) == jnp.sum(mask) - 1
    return jnp.where(last, jnp.sum(jnp.where(mask, rewards, 0.0)), 0.0)
