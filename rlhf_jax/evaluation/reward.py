"""A reward model on held-out ranked lists."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.loader import thin
from rlhf_jax.diagnostics import Collapse, coincide, measure_collapse, rows_of_types
from rlhf_jax.diagnostics.reward_model import measure_reward_model, reading_metrics
from rlhf_jax.types import RankBatch


@dataclasses.dataclass(frozen=True)
class RewardEvaluation:
    """Metrics; one row for each response: split, list, prompt_type, rank, reward, length (tokens), gold and best (None
    when unknown), and of a partial order ``better_than``, the places among the list's rows of the responses that it was
    judged better than; and a warning for each pair of prompt types whose rewards have collapsed into one distribution.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    warnings: tuple[str, ...] = ()


def evaluate_reward_model(
    loss_and_rewards: Callable[[RankBatch], tuple[float, float, np.ndarray]],
    batches: Iterable[RankBatch],
    lists: Sequence[ListExample],
    scores: Sequence[Sequence[float | None]],
    *,
    best: Sequence[Float[np.ndarray, "_"] | None] | None = None,
    apart: Mapping[tuple[str, str], float] | None = None,
    split: str = "validation",
    detailed: bool = False,
) -> RewardEvaluation:
    """Loss, pair accuracy (of compared pairs) and how far prompt types' reward distributions have collapsed.

    ``loss_and_rewards`` gives (loss numerator, its weight in lists, rewards (B, K)) of a batch; ``batches`` are one
    pass over ``lists`` in order, ``scores`` the known gold rewards of their responses. ``best`` are the rewards at each
    list's optimum, best response first, None where there is none; ``apart`` the distances that pairs of types should
    have (``diagnostics.measure_collapse``). ``w1.A.B`` is the Wasserstein-1 distance, in reward, between the pooled
    rewards of two types (again as ``w1_open_closed``), ``ks.A.B`` the Kolmogorov-Smirnov distance (a type
    with dots is written as a dot and its JSON text there, so that no two pairs share a name),
    ``r_star_distance.TYPE`` the mean distance of a type's rank profile from that of its best rewards. ``detailed`` adds
    order, calibration and length bias (``diagnostics.reward_model.reading_metrics``).
    """
    losses, weights = 0.0, 0.0
    rewards, ranks, masks, judged = [], [], [], []
    for batch in batches:
        loss, weight, batch_rewards = loss_and_rewards(batch)
        losses, weights = losses + loss, weights + weight
        rewards.append(np.asarray(batch_rewards, np.float64))
        ranks.append(batch.ranks)
        masks.append(batch.response_mask)
        judged.append(batch.better)
    count = len(lists)
    reward, rank, mask, better = (np.concatenate(parts)[:count] for parts in (rewards, ranks, masks, judged))
    types = [example.prompt_type for example in lists]
    metrics = {"loss": losses / max(weights, 1.0), **_accuracy(reward, better, "pair_accuracy")}
    for kind, rows_of_type in rows_of_types(types).items():
        if kind:
            metrics |= _accuracy(reward[rows_of_type], better[rows_of_type], f"pair_accuracy.{kind}")
    gold, optimum, lengths = (np.full(reward.shape, np.nan) for _ in range(3))
    rows = []
    for place, example in enumerate(lists):
        kept = thin(example.ranks, reward.shape[1])
        own = best[place] if best is not None else None
        gold[place, : len(kept)] = [_or_nan(scores[place][response]) for response in kept]
        lengths[place, : len(kept)] = [len(example.responses[response]) for response in kept]
        if own is not None:
            optimum[place, : len(kept)] = own
        rows += [
            {
                "split": split,
                "list": place,
                "prompt_type": example.prompt_type,
                "rank": int(rank[place, column]),
                "reward": float(reward[place, column]),
                "length": len(example.responses[response]),
                "gold": scores[place][response],
                "best": None if own is None else float(own[column]),
            }
            | ({"better_than": np.flatnonzero(better[place, column]).tolist()} if example.edges else {})
            for column, response in enumerate(kept)
        ]
    if detailed:
        metrics |= reading_metrics(measure_reward_model(reward, rank, mask, types, better=better, lengths=lengths))
    found = measure_collapse(reward, rank, mask, types, best=optimum, apart=apart, gold=gold)
    return RewardEvaluation(metrics | collapse_metrics(found), rows, tuple(coincide(found)))


def collapse_metrics(found: Collapse) -> dict[str, float]:
    """The numbers of a collapse by their metric names; what is not known is left out."""
    metrics: dict[str, float] = {}
    for pair in found.pairs:
        names = f"{_in_pair(pair.first)}.{_in_pair(pair.second)}"
        metrics[f"w1.{names}"] = pair.w1
        metrics[f"ks.{names}"] = pair.ks
        if (pair.first, pair.second) == ("closed", "open"):
            metrics["w1_open_closed"] = pair.w1
    if found.index is not None:
        metrics["collapse_index"] = found.index
    for kind, reading in found.types.items():
        if reading.mean_distance is not None:
            metrics[f"r_star_distance.{kind}"] = reading.mean_distance
    return metrics


def _in_pair(kind: str) -> str:
    """A prompt type in the name of a metric of two: itself, or if it has dots, a dot and its JSON text.

    No type is empty, so that two dots in a row can only begin such a text, and where that ends is plain: no two pairs
    share a name.
    """
    return f".{json.dumps(kind, ensure_ascii=False)}" if "." in kind else kind


def _or_nan(score: float | None) -> float:
    return np.nan if score is None else score


def _accuracy(reward: Float[np.ndarray, "N K"], better: Bool[np.ndarray, "N K K"], name: str) -> dict[str, float]:
    """The share of compared pairs in the right order, equal rewards one half; {} where nothing was compared."""
    gap = reward[:, :, None] - reward[:, None, :]
    right = np.where(gap == 0, 0.5, gap > 0)
    return {name: float(right[better].mean())} if better.any() else {}
