"""Rewards, returns and advantages of the tokens of one episode."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ScoreAt = Literal["last", "after", "end"]


def score_place(mask: Bool[Array, "R"], read: Bool[Array, "R"], at: ScoreAt) -> Bool[Array, "R"]:
    """The slot where the score of a response is paid, one-hot; none of an empty episode.

    ``mask`` marks the tokens of the episode, ``read`` those that were scored, both prefixes. ``last``: the last token
    read; ``after``: the slot past it, where there is one (Huang et al. 2024); ``end``: the last token of the episode
    (Ziegler et al. 2019, released code).
    """
    slots, kept = jnp.arange(mask.shape[0]), mask if at == "end" else read
    last = jnp.sum(kept) - 1
    place = jnp.minimum(last + 1, mask.shape[0] - 1) if at == "after" else last
    return (slots == place) & (last >= 0)


def one_more(mask: Bool[Array, "*B R"]) -> Bool[Array, "*B R"]:
    """A prefix mask with the slot after it, where there is one; an empty one stays empty."""
    before = jnp.concatenate([jnp.zeros_like(mask[..., :1]), mask[..., :-1]], axis=-1)
    return mask | before


def token_rewards(
    *,
    score: Float[Array, ""],
    logprobs: Float[Array, "R"],
    ref_logprobs: Float[Array, "R"],
    mask: Bool[Array, "R"],
    kl_coefficient: Float[Array, ""],
    divergences: Float[Array, "R"] | None = None,
    place: Bool[Array, "R"] | None = None,
) -> Float[Array, "R"]:
    """r_t = -beta (log pi - log pi_ref)(a_t), plus the score of the whole response at its last token, t in [0, R).

    Masked slots are 0; an episode without any token gets no reward at all. Source: Ziegler et al. 2019, equation (2).
    ``divergences`` take the place of the log-ratios, where they are not what is priced; ``place`` is where the score
    is paid, if not at the last token.
    """
    priced = logprobs - ref_logprobs if divergences is None else divergences
    penalty = jnp.where(mask, -kl_coefficient * priced, 0.0)
    if place is None:
        place = score_place(mask, mask, "last")
    return penalty + jnp.where(place, score, 0.0)


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


def rewards_to_go(rewards: Float[Array, "R"], mask: Bool[Array, "R"], gamma: float) -> Float[Array, "R"]:
    """G_t = sum_{l >= 0} gamma^l r_{t+l}, for t in [0, R); masked slots are 0. The advantage without a value model."""
    values = jnp.zeros_like(rewards)
    return generalized_advantages(rewards=rewards, values=values, mask=mask, gamma=gamma, lambda_=1.0)
