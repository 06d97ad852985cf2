"""Proximal policy optimisation: the clipped objectives and their means, the KL controller, the missing-EOS rule."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LossMean = Literal["tokens", "sequences", "constant"]


def clipped_policy_loss(
    *,
    logprobs: Float[Array, "R"],
    old_logprobs: Float[Array, "R"],
    advantages: Float[Array, "R"],
    clip: float,
    clip_high: float | None = None,
) -> Float[Array, "R"]:
    """max(-A rho, -A clip(rho, 1 - c, 1 + c)) at each token, rho = pi / pi_old. Schulman et al. 2017, equation (7).

    ``clip_high`` is the c above 1, where it differs (DAPO, Yu et al. 2025, equation (8)).
    """
    ratio = jnp.exp(logprobs - old_logprobs)
    high = clip if clip_high is None else clip_high
    return jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 1.0 - clip, 1.0 + high))


def clipped_value_loss(
    *, values: Float[Array, "R"], old_values: Float[Array, "R"], returns: Float[Array, "R"], clip: float
) -> Float[Array, "R"]:
    """1/2 max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2) at each token. Ziegler et al. 2019, released code."""
    clipped = jnp.clip(values, old_values - clip, old_values + clip)
    return 0.5 * jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def adapt_kl_coefficient(
    *, coefficient: Float[Array, ""], kl: Float[Array, ""], target: float, episodes: int, horizon: float
) -> Float[Array, ""]:
    """beta (1 + clip(KL / target - 1, -0.2, 0.2) episodes / horizon); KL in nats per response. Ziegler et al. 2019."""
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return coefficient * (1.0 + error * episodes / horizon)


def missing_eos_scores(
    scores: Float[Array, "N"], has_eos: Bool[Array, "N"], score: float | None, *, added: bool = False
) -> Float[Array, "N"]:
    """The score of a response that never ended is *replaced* by ``score`` (None: left alone). Ziegler et al. 2019.

    ``added``: ``score`` is added to its own instead, as TRL's penalty with its sign turned.
    """
    if score is None:
        return scores
    return jnp.where(has_eos, scores, scores + score if added else score)


def mean_weights(mask: Bool[Array, "N R"], mean: LossMean) -> tuple[Float[Array, "N R"], Float[Array, "N"]]:
    """(weight of each token, weight of each row) whose weighted sum over the sum of row weights is the mean asked for.

    ``tokens``: all tokens alike, a long response counts for more (DAPO); ``sequences``: the mean over each response,
    then over those that have tokens (GRPO); ``constant``: the sum over each response, over N R (Dr.GRPO).
    """
    tokens = jnp.sum(mask, axis=1).astype(jnp.float32)
    if mean == "tokens":
        return mask.astype(jnp.float32), tokens
    if mean == "sequences":
        return mask / jnp.maximum(tokens, 1.0)[:, None], (tokens > 0).astype(jnp.float32)
    return mask.astype(jnp.float32) / mask.shape[1], jnp.ones_like(tokens)
