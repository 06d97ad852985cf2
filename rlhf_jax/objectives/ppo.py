"""Proximal policy optimisation: the clipped objectives, the KL controller and the missing-EOS rule, per token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def clipped_policy_loss(
    *,
    logprobs: Float[Array, "R"],
    old_logprobs: Float[Array, "R"],
    advantages: Float[Array, "R"],
    clip: float,
) -> Float[Array, "R"]:
    """max(-A rho, -A clip(rho, 1 - c, 1 + c)) at each token, rho = pi / pi_old. Schulman et al. 2017, equation (7)."""
    ratio = jnp.exp(logprobs - old_logprobs)
    return jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 1.0 - clip, 1.0 + clip))


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
    scores: Float[Array, "N"], has_eos: Bool[Array, "N"], replacement: float | None
) -> Float[Array, "N"]:
    """The score of a response that never ended is *replaced* by ``replacement`` (None: left alone). Ziegler et al."""
    return scores if replacement is None else jnp.where(has_eos, scores, replacement)
