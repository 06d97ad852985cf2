"""Plackett-Luce: a ranking as a row of choices, each among what is left."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.masked import masked_mean


def plackett_luce_loss(*, rewards: Float[Array, "K"], better: Bool[Array, "K K"], top: int = 0) -> Float[Array, ""]:
    """Mean negative log-likelihood (nats) of the choices that ONE prompt's K responses stand for; 0 without a choice.

    Response i was chosen from itself and all responses that it beat, ``better[i]``:

        L = 1/C sum_i [ log(e^{r_i} + sum_{j: better[i, j]} e^{r_j}) - r_i ],  C the responses that beat another.

    Of a full order this is the Plackett-Luce likelihood divided by its K - 1 choices, of a pair the Bradley-Terry loss;
    tied responses are left out of each other's choices, and a partial order is read the same way. ``top`` > 0 keeps
    the choices of the responses that fewer than ``top`` others beat: the best k alone; 1 is the softmax over the
    whole list, best-of-K. Source: Plackett 1975; top-1: Ziegler et al. 2019, section 2.
    """
    wins = jnp.any(better, axis=1)
    if top:
        wins &= jnp.sum(better, axis=0) < top
    rewards = jnp.where(jnp.any(better | better.T, axis=1), rewards, 0.0)  # what was never judged may be NaN
    among = better | jnp.eye(len(rewards), dtype=bool)
    scores = jax.nn.logsumexp(jnp.where(among, rewards[None, :], -jnp.inf), axis=1)
    return masked_mean(scores - rewards, wins)
