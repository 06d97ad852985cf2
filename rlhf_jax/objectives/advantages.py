"""Returns and advantages of one episode."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def token_rewards(
    *,
    score: Float[Array, ""],
    logprobs: Float[Array, "R"],
    ref_logprobs: Float[Array, "R"],
    mask: Bool[Array, "R"],
    kl_coefficient: Float[Array, ""],
) -> Float[Array, "R"]:
    """r_t = -beta (log pi - log pi_ref)(a_t), plus the score of the whole response at its last token, t in [0, R).

    Masked slots are 0; an episode without any token gets no reward at all. Source: Ziegler et al. 2019, equation (2).
    """
    penalty = jnp.where(mask, -kl_coefficient * (logprobs - ref_logprobs), 0.0)
    last = jnp.arange(mask.shape[0]) == jnp.sum(mask) - 1
    return penalty + jnp.where(last & mask, score, 0.0)


def generalized_advantages(
    *,
    rewards: Float[Array, "R"],
    values: Float[Array, "R"],
    mask: Bool[Array, "R"],
    gamma: float,
    lambda_: float,
) -> Float[Array, "R"]:
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t, for t in [0, R).

    The mask is a prefix; past it V is 0, so that the last token bootstraps nothing, and A is 0.
    Source: Schulman et al. 2016, equation (16).
    """
    values = jnp.where(mask, values, 0.0)
    next_values = jnp.concatenate([values[1:], jnp.zeros_like(values[:1])])
    deltas = jnp.where(mask, rewards + gamma * next_values - values, 0.0)

    def backward(advantage: Float[Array, ""], delta: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        advantage = delta + gamma * lambda_ * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backward, jnp.zeros_like(deltas[0]), deltas, reverse=True)
    return jnp.where(mask, advantages, 0.0)
