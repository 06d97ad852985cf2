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
    *,
    rewards: Float[Array, "K"],
    ranks: Int[Array, "K"],
    mask: Bool[Array, "K"],
    utility: Utility,
    better: Bool[Array, "K K"] | None = None,
    margin: Float[Array, ""] | float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Negative mean utility over the comparable pairs of K ranked responses to ONE prompt; 0 without such a pair.

    L = -1/|P| sum_{(i, j) in P} U(r_i - r_j - margin), P the pairs with rank_i < rank_j (0 = best), or those of
    ``better`` in a partial order. Dividing by |P| makes a long list weigh as much as a short one. With K = 2 and
    U = log sigmoid this is the Bradley-Terry loss. A utility that weighs its pairs (``pair_weights``) has each term
    multiplied by its weight. ``label_smoothing`` s is the share of judgements taken to be wrong: the term becomes
    (1 - s) U(x) + s U(-x).
    Source: Song et al. 2023, equation (1); prompt-aware when ``utility`` depends on the prompt, equation (2). Margin:
    Touvron et al. 2023 (Llama 2), equation (2); smoothing: Mitchell 2023 (conservative DPO).
    """
    pairs = comparable_pairs(ranks, mask) if better is None else better
    # A gap to a missing response may be NaN or infinite, and zero times the slope there would still be NaN.
    rewards = jnp.where(mask, rewards, 0.0)
    gaps = rewards[:, None] - rewards[None, :] - margin
    values = utility.value(gaps)
    if label_smoothing:
        values = (1.0 - label_smoothing) * values + label_smoothing * utility.value(-gaps)
    weights = utility.pair_weights(ranks, mask)
    return -masked_mean(values if weights is None else weights * values, pairs)


def prompt_aware_loss(
    *,
    rewards: Float[Array, "K"],
    ranks: Int[Array, "K"],
    mask: Bool[Array, "K"],
    utilities: Sequence[Utility],
    index: Int[Array, ""],
    better: Bool[Array, "K K"] | None = None,
    margin: Float[Array, ""] | float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """``ranked_utility_loss`` under ``utilities[index]``, the utility of the prompt's own type."""
    branches = [
        lambda u=utility: ranked_utility_loss(
            rewards=rewards,
            ranks=ranks,
            mask=mask,
            utility=u,
            better=better,
            margin=margin,
            label_smoothing=label_smoothing,
        )
        for utility in utilities
    ]
    return jax.lax.switch(jnp.clip(index, 0, len(branches) - 1), branches)
