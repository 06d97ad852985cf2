"""Paired comparisons that may end in a tie: Rao-Kupper and Davidson."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.masked import masked_sum


def rao_kupper_loss(
    *, rewards: Float[Array, "K"], better: Bool[Array, "K K"], tied: Bool[Array, "K K"], threshold: float
) -> Float[Array, ""]:
    """Mean negative log-likelihood (nats) of ONE prompt's judgements, ties among them; 0 without a judgement.

    P(i beats j) = sigmoid(r_i - r_j - threshold), P(tie) = 1 - P(i beats j) - P(j beats i); threshold > 0, in units of
    reward. ``tied`` is symmetric. Source: Rao and Kupper 1967, with theta = e^threshold.
    """
    gaps = _gaps(rewards, better, tied)
    wins = jax.nn.log_sigmoid(gaps - threshold)
    # P(tie) = (theta^2 - 1) / ((1 + theta e^gap)(1 + theta e^-gap)); log(theta^2 - 1) so that it cannot overflow.
    twice = 2.0 * jnp.asarray(threshold, gaps.dtype)
    shift = twice + jnp.log(-jnp.expm1(-twice))
    ties = shift - jax.nn.softplus(threshold + gaps) - jax.nn.softplus(threshold - gaps)
    return _mean(wins, ties, better, tied)


def davidson_loss(
    *, rewards: Float[Array, "K"], better: Bool[Array, "K K"], tied: Bool[Array, "K K"], weight: float
) -> Float[Array, ""]:
    """The same under Davidson's model: the odds i beats j : j beats i : tie are e^{r_i} : e^{r_j} : weight
    e^{(r_i + r_j) / 2}, weight > 0. Source: Davidson 1970.
    """
    gaps = _gaps(rewards, better, tied)
    # Divided by e^{(r_i + r_j) / 2}: the total is e^{gap / 2} + e^{-gap / 2} + weight.
    log_weight = jnp.full_like(gaps, jnp.log(weight))
    total = jax.nn.logsumexp(jnp.stack([gaps / 2, -gaps / 2, log_weight]), axis=0)
    return _mean(gaps / 2 - total, log_weight - total, better, tied)


def _gaps(rewards: Float[Array, "K"], better: Bool[Array, "K K"], tied: Bool[Array, "K K"]) -> Float[Array, "K K"]:
    judged = better | better.T | tied
    rewards = jnp.where(jnp.any(judged, axis=1), rewards, 0.0)  # what was never judged may be NaN
    return rewards[:, None] - rewards[None, :]


def _mean(
    wins: Float[Array, "K K"], ties: Float[Array, "K K"], better: Bool[Array, "K K"], tied: Bool[Array, "K K"]
) -> Float[Array, ""]:
    once = jnp.triu(tied, k=1)  # a tie is one judgement, held at two places
    judgements = jnp.maximum(jnp.sum(better) + jnp.sum(once), 1)
    return -(masked_sum(wins, better) + masked_sum(ties, once)) / judgements
