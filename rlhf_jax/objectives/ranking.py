"""The ranking objective: the mean utility of the reward gaps of one prompt's ranked responses."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.objectives.masked import masked_mean
from rlhf_jax.objectives.utilities import Utility


def comparable_pairs(ranks: Int[Array, "K"], mask: Bool[Array, "K"]) -> Bool[Array, "K K"]:
    """True at (i, j) where both responses exist and i is ranked strictly better (lower) than j: ties are not pairs."""
    return (ranks[:, None] < ranks[None, :]) & mask[:, None] & mask[None, :]


def ranked_utility_loss(
    *, rewards: Float[Array, "K"], ranks: Int[Array, "K"], mask: Bool[Array, "K"], utility: Utility
) -> Float[Array, ""]:
    """Negative mean utility over the comparable pairs of K ranked responses to ONE prompt; 0 without such a pair.

    L = -1/|P| sum_{(i, j) in P} U(r_i - r_j), P the pairs with rank_i < rank_j (0 = best). Dividing by |P| makes a
    long list weigh as much as a short one. With K = 2 and U = log sigmoid this is the Bradley-Terry loss. A utility
    that weighs its pairs (``pair_weights``) has each term multiplied by its weight.
    Source: Song et al. 2023, equation (1); prompt-aware when ``utility`` depends on the prompt, equation (2).
    """
    # A gap to a missing response may be NaN or infinite, and zero times the slope there would still be NaN.
    rewards = jnp.where(mask, rewards, 0.0)
    gaps = rewards[:, None] - rewards[None, :]
    values = utility.value(gaps)
    weights = utility.pair_weights(ranks, mask)
    return -masked_mean(values if weights is None else weights * values, comparable_pairs(ranks, mask))


def prompt_aware_loss(
    *,
    rewards: Float[Array, "K"],
    ranks: Int[Array, "K"],
    mask: Bool[Array, "K"],
    utilities: Sequence[Utility],
    index: Int[Array, ""],
) -> Float[Array, ""]:
    """``ranked_utility_loss`` under ``utilities[index]``, the utility of the prompt's own type."""
    branches = [
        lambda u=utility: ranked_utility_loss(rewards=rewards, ranks=ranks, mask=mask, utility=u)
        for utility in utilities
    ]
    return jax.lax.switch(jnp.clip(index, 0, len(branches) - 1), branches)
