"""Best-of-n: n responses to each prompt, all of them scored by every member of the reward model, the best one chosen.

The streams are numbered by (sample, prompt), so that the first n' responses of n are those that n' would have drawn.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.generation.rollout import RolloutSpec, complete
from rlhf_jax.models import apply_reward_lists
from rlhf_jax.objectives.aggregation import Aggregation, aggregate
from rlhf_jax.types import ListTokens, Params, PromptBatch

# Prompts to (response ids (B, R), mask (B, R), rewards (B, M)), compiled.
Sampler = Callable[[PromptBatch], tuple[Any, Any, Any]]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """n responses to each of P prompts, and the reward of each by every one of M members."""

    ids: Int[np.ndarray, "P n R"]
    mask: Bool[np.ndarray, "P n R"]
    members: Float[np.ndarray, "P n M"]

    def scores(self, how: Aggregation = "mean", penalty: float = 0.0) -> Float[np.ndarray, "P n"]:
        """The aggregate over members by which the best is chosen."""
        return np.asarray(aggregate(jnp.moveaxis(jnp.asarray(self.members), -1, 0), how, penalty))


def best(scores: Float[np.ndarray, "P n"]) -> Int[np.ndarray, "P"]:
    """The place of the highest score of each prompt; of equal ones the first sampled, which is a random one."""
    return np.argmax(scores, axis=1)


def sample_scored(
    spec: RolloutSpec, policy: Params, reward: Params, prompts: PromptBatch, key: jax.Array, *, together: int = 1
) -> tuple[Int[Array, "B R"], Bool[Array, "B R"], Float[Array, "B M"]]:
    """One response to each row of prompts, from the stream of its own number, and its reward by every member.

    So many rows ``together`` have the same prompt, which the reward model reads once for them.
    """
    completions = complete(spec, policy, prompts, key)
    responses = (leaf.reshape(-1, together, spec.max_response) for leaf in (completions.ids, completions.mask))
    lists = ListTokens(prompts.ids[::together], prompts.mask[::together], *responses)
    members = apply_reward_lists(spec.reward, reward, lists, bounded=spec.reward_bounded, ensemble=spec.ensemble)
    return completions.ids, completions.mask, members.reshape(len(members), -1).T


def sample_candidates(sampler: Sampler, prompts: PromptBatch, n: int, rows: int, together: int = 1) -> Candidates:
    """n responses to each of the P prompts, ``rows`` of them at once, so many to one prompt ``together`` (a divisor of
    both); what is left of the last batch is padding.

    The result depends on the prompts and their order, not on how many are at once: the first responses of a larger n
    are those of a smaller one.
    """
    count = len(prompts.index)
    total = count * n
    parts = []
    for start in range(0, total, rows):
        turn = np.arange(start, start + rows, dtype=np.int32)
        place, real = turn // together % count, turn < total
        number = (turn // (together * count) * together + turn % together) * count + place
        batch = PromptBatch(
            ids=prompts.ids[place],
            mask=prompts.mask[place] & real[:, None],
            index=np.where(real, prompts.index[place], -1).astype(np.int32),
            row=number,
        )
        parts.append([np.asarray(leaf)[real] for leaf in jax.device_get(sampler(batch))])
    ids, mask, members = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))

    def by_prompt(leaf: np.ndarray) -> np.ndarray:
        turns = leaf.reshape(n // together, count, together, *leaf.shape[1:])
        return np.swapaxes(turns, 0, 1).reshape(count, n, *leaf.shape[1:])

    return Candidates(by_prompt(ids), by_prompt(mask), by_prompt(members))
