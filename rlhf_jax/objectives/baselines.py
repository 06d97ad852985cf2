"""Advantages without a value model: what an episode earned against what others did.

All take the rewards of every token of all N episodes, in which G consecutive rows answer one prompt, and give the
advantage of every token; masked slots are 0. ``total`` below is the sum of an episode's rewards.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.advantages import rewards_to_go

# Added to the deviation of a group by GRPO, in units of reward.
GRPO_EPSILON = 1e-4


def totals(rewards: Float[Array, "N R"], mask: Bool[Array, "N R"]) -> Float[Array, "N"]:
    """The undiscounted return of each episode."""
    return jnp.sum(jnp.where(mask, rewards, 0.0), axis=1)


def mean_of_others(total: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """The mean over the other members of a row of groups, which no action of one's own has touched; 0 if alone."""
    size = total.shape[1]
    return (jnp.sum(total, axis=1, keepdims=True) - total) / max(size - 1, 1) * (size > 1)


def reinforce(rewards: Float[Array, "N R"], mask: Bool[Array, "N R"], gamma: float) -> Float[Array, "N R"]:
    """A_t = G_t - mean total of all other episodes, whatever their prompts. Williams 1992, with a batch baseline."""
    to_go = jax.vmap(rewards_to_go, (0, 0, None))(rewards, mask, gamma)
    baseline = mean_of_others(totals(rewards, mask)[None])[0]
    return jnp.where(mask, to_go - baseline[:, None], 0.0)


def reinforce_pp(
    rewards: Float[Array, "N R"], mask: Bool[Array, "N R"], gamma: float, group: int = 1
) -> Float[Array, "N R"]:
    """A_t = G_t, still to be brought to mean 0 and variance 1 over all tokens of the batch. Hu et al. 2025.

    With a ``group`` above 1 the mean total of the prompt's episodes is subtracted first (the -baseline variant).
    """
    to_go = jax.vmap(rewards_to_go, (0, 0, None))(rewards, mask, gamma)
    if group > 1:
        means = jnp.mean(_groups(totals(rewards, mask), group), axis=1)
        to_go -= jnp.repeat(means, group)[:, None]
    return jnp.where(mask, to_go, 0.0)


def rloo(rewards: Float[Array, "N R"], mask: Bool[Array, "N R"], group: int) -> Float[Array, "N R"]:
    """A = total - mean total of the other episodes of the prompt, the same at every token. Ahmadian et al. 2024."""
    total = _groups(totals(rewards, mask), group)
    return _spread(total - mean_of_others(total), mask)


def dr_grpo(rewards: Float[Array, "N R"], mask: Bool[Array, "N R"], group: int) -> Float[Array, "N R"]:
    """A = total - mean total of the prompt's episodes, the same at every token. Liu et al. 2025."""
    total = _groups(totals(rewards, mask), group)
    return _spread(total - jnp.mean(total, axis=1, keepdims=True), mask)


def grpo(rewards: Float[Array, "N R"], mask: Bool[Array, "N R"], group: int) -> Float[Array, "N R"]:
    """The same over the group's standard deviation (of G - 1 degrees of freedom) + 1e-4. Shao et al. 2024."""
    total = _groups(totals(rewards, mask), group)
    centred = total - jnp.mean(total, axis=1, keepdims=True)
    return _spread(centred / (jnp.std(total, axis=1, ddof=1, keepdims=True) + GRPO_EPSILON), mask)


def _groups(total: Float[Array, "N"], group: int) -> Float[Array, "B G"]:
    return total.reshape(-1, group)


def _spread(advantages: Float[Array, "B G"], mask: Bool[Array, "N R"]) -> Float[Array, "N R"]:
    return jnp.where(mask, advantages.reshape(-1, 1), 0.0)
