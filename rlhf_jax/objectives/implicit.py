"""The implicit reward of a response: what its log-probability under a policy says that the policy holds it to be worth.

A policy that is best under a reward and a divergence from a reference tells the reward, up to a constant of the prompt.
Under D_f that reward is beta f'(pi / pi_ref), of the reverse KL beta log(pi / pi_ref) (Wang et al. 2023, equation 4).
All of these take summed log-probabilities of responses, in nats, one entry a response.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Logs of ratios above this count as this, and e^80 is still far below what float32 can hold.
LARGEST_LOG = 80.0
# A mean log-probability is kept so far below 0, where odds are infinite.
NEAREST_TO_SURE = 1e-6


def log_ratios(
    logprobs: Float[Array, "K"], ref_logprobs: Float[Array, "K"], lengths: Float[Array, "K"] | None = None
) -> Float[Array, "K"]:
    """l = log pi - log pi_ref of each response, per token where its ``lengths`` (in tokens) are given."""
    ratios = logprobs - ref_logprobs
    return ratios if lengths is None else ratios / jnp.maximum(lengths, 1)


def chi_rewards(ratios: Float[Array, "K"]) -> Float[Array, "K"]:
    """phi(u) = u + log u, u = pi / pi_ref: chi-squared and KL divergence together. Huang et al. 2024, section 3."""
    return jnp.exp(jnp.minimum(ratios, LARGEST_LOG)) + ratios


def log_odds(mean_logprobs: Float[Array, "K"]) -> Float[Array, "K"]:
    """log p / (1 - p) with p = e^(mean log-probability of a token). Hong et al. 2024 (ORPO), equation (4)."""
    below = jnp.minimum(mean_logprobs, -NEAREST_TO_SURE)
    return below - jnp.log(-jnp.expm1(below))
