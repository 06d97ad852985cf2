"""How well rewards order lists: accuracy in parts, Kendall's tau-b, and discounted cumulative gain."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.diagnostics.pairs import Pairs, dense_ranks, right_order

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The share of ``pairs`` in the right order (equal rewards count one half); ``pairs`` is at least 1."""

    accuracy: float
    pairs: int


def accuracy_by(rewards: Float[np.ndarray, "N K"], pairs: Pairs, keys: Sequence[Key]) -> dict[Key, Accuracy]:
    """Accuracy among the pairs of each key, one key a pair; keys in the order in which they first occur."""
    right = right_order(rewards, pairs)
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return {key: Accuracy(float(right[own].mean()), len(own)) for key, own in places.items()}


def accuracy_by_type(rewards: Float[np.ndarray, "N K"], pairs: Pairs, types: Sequence[str]) -> dict[str, Accuracy]:
    """Accuracy of each prompt type, names sorted; ``types`` holds one name a list."""
    return dict(sorted(accuracy_by(rewards, pairs, [types[row] for row in pairs.row]).items()))


def accuracy_by_size(
    rewards: Float[np.ndarray, "N K"], pairs: Pairs, mask: Bool[np.ndarray, "N K"]
) -> dict[int, Accuracy]:
    """Accuracy by the number of responses in the list, shortest first."""
    return dict(sorted(accuracy_by(rewards, pairs, mask.sum(axis=1)[pairs.row].tolist()).items()))


def accuracy_by_distance(rewards: Float[np.ndarray, "N K"], pairs: Pairs) -> dict[int, Accuracy]:
    """Accuracy by the difference of dense ranks, neighbours (1) first: the farther apart, the easier."""
    return dict(sorted(accuracy_by(rewards, pairs, pairs.distance.tolist()).items()))


def kendall_tau(
    rewards: Float[np.ndarray, "N K"], better: Bool[np.ndarray, "N K K"], mask: Bool[np.ndarray, "N K"]
) -> Float[np.ndarray, "N"]:
    """Kendall's tau-b between rewards and the judged order of each list, in [-1, 1]; 1 is the right order.

    (concordant - discordant) / sqrt(pairs with different rewards x pairs judged different) over all pairs of a list;
    ``better`` as in ``pairs_of_lists``, pairs that were not compared count as ties. NaN for a list whose rewards, or
    judgements, are all equal. Source: Kendall 1945, as in ``scipy.stats.kendalltau``; that takes one list at a time and
    works out a p-value as well.
    """
    real = mask[:, :, None] & mask[:, None, :]
    by_reward = np.sign(rewards[:, :, None] - rewards[:, None, :]) * real
    judged = better & real
    order = judged.astype(int) - judged.swapaxes(1, 2)
    # Every pair is seen twice, from both of its ends: in all three sums alike.
    agreement = np.sum(by_reward * order, axis=(1, 2))
    different = np.sum(by_reward != 0, axis=(1, 2)) * np.sum(order != 0, axis=(1, 2))
    tau = np.full(len(rewards), np.nan)
    np.divide(agreement, np.sqrt(different), out=tau, where=different > 0)
    return tau


def relevance_of_ranks(ranks: Int[np.ndarray, "N K"], mask: Bool[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    """Tiers below a response: 0 for the worst tier of a list, the number of tiers minus 1 for the best."""
    dense = dense_ranks(ranks, mask)
    return np.where(mask, dense.max(axis=1, keepdims=True, initial=0) - dense, 0).astype(float)


def ndcg(
    rewards: Float[np.ndarray, "N K"],
    relevance: Float[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
    *,
    exponential: bool = False,
) -> Float[np.ndarray, "N"]:
    """Normalised discounted cumulative gain of each list, in [0, 1]; 1 is the best order, NaN without any gain.

    DCG is the sum of gain / log2(1 + position) with responses sorted by reward, position 1 first, divided by that of
    the order by relevance. The gain is the relevance (at least 0) itself, or 2^relevance - 1 if ``exponential``.
    Responses of equal reward share the mean discount of their positions, which is the mean over all ways of breaking
    the tie. Sources: Järvelin and Kekäläinen 2002 (linear), Burges et al. 2005 (exponential).
    """
    scores = np.full(len(rewards), np.nan)
    for row, (reward, own, real) in enumerate(zip(rewards, relevance, mask, strict=True)):
        gain = np.exp2(own[real]) - 1 if exponential else own[real]
        discount = 1 / np.log2(np.arange(len(gain)) + 2)
        best = float(np.sort(gain)[::-1] @ discount)
        if best > 0:
            group = np.unique(-reward[real], return_inverse=True)[1]  # 0: the highest reward
            sizes = np.bincount(group)
            shared = np.bincount(np.sort(group), weights=discount) / sizes
            scores[row] = float(gain @ shared[group]) / best
    return scores
