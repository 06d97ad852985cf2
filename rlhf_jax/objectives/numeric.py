"""Feedback in numbers: verdicts in [0, 1], scalar scores, and the pull of rewards to a common centre."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.masked import masked_mean

# A bounded reward is kept so far from 0 and 1 in the logarithm, or as far as its type can tell from 1.
SMALLEST = 1e-6


def label_loss(
    *, rewards: Float[Array, "K"], labels: Float[Array, "K"], mask: Bool[Array, "K"], bounded: bool
) -> Float[Array, ""]:
    """Mean binary cross-entropy (nats) of verdicts in [0, 1], 0 without any: rewards are logits, or probabilities
    where they are ``bounded`` to [0, 1]. Masked entries may hold anything.
    """
    rewards, labels = jnp.where(mask, rewards, 0.5), jnp.where(mask, labels, 0.5)
    if not bounded:
        return masked_mean(jax.nn.softplus(rewards) - labels * rewards, mask)
    smallest = max(SMALLEST, float(jnp.finfo(rewards.dtype).eps))
    likely = jnp.clip(rewards, smallest, 1.0 - smallest)
    return masked_mean(-labels * jnp.log(likely) - (1.0 - labels) * jnp.log1p(-likely), mask)


def score_loss(
    *, rewards: Float[Array, "K"], scores: Float[Array, "K"], mask: Bool[Array, "K"], huber: float = 0.0
) -> Float[Array, ""]:
    """Mean of (reward - score)^2 / 2, or of Huber's loss that is linear beyond ``huber`` > 0; 0 without a score.

    Scores are on the scale of the rewards. Masked entries may hold anything. Source of the latter: Huber 1964.
    """
    errors = jnp.where(mask, rewards - jnp.where(mask, scores, 0.0), 0.0)
    size = jnp.abs(errors)
    squares = 0.5 * errors**2
    return masked_mean(jnp.where(size <= huber, squares, huber * (size - 0.5 * huber)) if huber else squares, mask)


def centering_loss(*, rewards: Float[Array, "K"], mask: Bool[Array, "K"], centre: float) -> Float[Array, ""]:
    """(2 (mean reward - centre))^2 of ONE prompt's responses: of a pair (r_1 + r_2)^2 about the centre 0.

    Losses of differences leave the level of rewards free, which this holds. Source: Eisenstein et al. 2023,
    arXiv 2312.09244, section 3.
    """
    return jnp.square(2.0 * (masked_mean(rewards, mask) - centre)) * jnp.any(mask)
