"""A reward model on held-out ranked lists."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.loader import thin
from rlhf_jax.diagnostics.rewards import pair_accuracy_of_lists, wasserstein_1
from rlhf_jax.types import RankBatch


@dataclasses.dataclass(frozen=True)
class RewardEvaluation:
    """Metrics, and one row for each response: split, list, prompt_type, rank, reward, gold (None when unknown)."""

    metrics: dict[str, float]
    rows: list[dict[str, Any]]


def evaluate_reward_model(
    loss_and_rewards: Callable[[RankBatch], tuple[float, float, np.ndarray]],
    batches: Iterable[RankBatch],
    lists: Sequence[ListExample],
    scores: Sequence[Sequence[float | None]],
    *,
    split: str = "validation",
) -> RewardEvaluation:
    """Loss, pair accuracy (ties in rank left out) and the distance between prompt types' reward distributions.

    ``loss_and_rewards`` gives (loss numerator, its weight in lists, rewards (B, K)) of a batch; ``batches`` are one
    pass over ``lists`` in order, ``scores`` the known gold rewards of their responses. ``w1_open_closed`` is the
    Wasserstein-1 distance, in reward, between the pooled rewards of open and of closed prompts.
    """
    losses, weights = 0.0, 0.0
    rewards, ranks, masks = [], [], []
    for batch in batches:
        loss, weight, batch_rewards = loss_and_rewards(batch)
        losses, weights = losses + loss, weights + weight
        rewards.append(np.asarray(batch_rewards, np.float64))
        ranks.append(batch.ranks)
        masks.append(batch.response_mask)
    count = len(lists)
    reward, rank, mask = (np.concatenate(parts)[:count] for parts in (rewards, ranks, masks))
    types = np.array([example.prompt_type for example in lists])
    metrics = {"loss": losses / max(weights, 1.0), "pair_accuracy": _accuracy(reward, rank, mask)}
    for kind in sorted(set(types) - {""}):
        own = types == kind
        metrics[f"pair_accuracy.{kind}"] = _accuracy(reward[own], rank[own], mask[own])
    if {"open", "closed"} <= set(types):
        pooled = {kind: reward[types == kind][mask[types == kind]] for kind in ("open", "closed")}
        metrics["w1_open_closed"] = wasserstein_1(pooled["open"], pooled["closed"])
    rows = []
    for place, example in enumerate(lists):
        kept = thin(example.ranks, reward.shape[1])
        rows += [
            {
                "split": split,
                "list": place,
                "prompt_type": example.prompt_type,
                "rank": int(rank[place, column]),
                "reward": float(reward[place, column]),
                "gold": scores[place][response],
            }
            for column, response in enumerate(kept)
        ]
    return RewardEvaluation(metrics, rows)


def _accuracy(reward: np.ndarray, rank: np.ndarray, mask: np.ndarray) -> float:
    correct, pairs = pair_accuracy_of_lists(reward, rank, mask)
    return correct / max(pairs, 1)
