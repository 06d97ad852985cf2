"""Does a reward model like long responses for being long?"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from rlhf_jax.diagnostics.ordering import Accuracy
from rlhf_jax.diagnostics.pairs import Pairs, right_order

MATCHED = 0.1


@dataclasses.dataclass(frozen=True)
class LengthBias:
    """Reward and length (tokens). Correlations are Spearman's, in [-1, 1]; None where there is nothing to correlate.

    ``correlation``: over all responses. ``within``: the same with the mean of each list removed, so that prompts which
    ask for long answers do not count. ``longer_wins``: share of the comparable pairs of different length in which the
    longer response has the higher reward (equal rewards count one half), ``longer_is_better`` that in which it has the
    better rank; their difference is the model's own doing. ``matched``: accuracy of pairs whose lengths differ by at
    most ``share`` of the longer; ``better_shorter`` and ``better_longer``: of pairs whose better response is the
    shorter, or the longer, of the two.
    """

    correlation: float | None
    within: float | None
    longer_wins: float | None
    longer_is_better: float | None
    share: float
    matched: Accuracy | None
    better_shorter: Accuracy | None
    better_longer: Accuracy | None


def length_bias(
    rewards: Float[np.ndarray, "N K"],
    lengths: Float[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
    pairs: Pairs,
    share: float = MATCHED,
) -> LengthBias:
    """Measure it on the responses of ``mask``, whose lengths are known, and on their ``pairs``."""
    right = right_order(rewards, pairs)
    better, worse = pairs.of(lengths)
    longer, shorter = better > worse, better < worse
    differ = longer | shorter
    # Where the worse response is the longer, the longer wins when the order is wrong.
    wins = np.where(longer, right, 1 - right)

    def accuracy(chosen: Bool[np.ndarray, "M"]) -> Accuracy | None:
        return Accuracy(float(right[chosen].mean()), int(chosen.sum())) if chosen.any() else None

    return LengthBias(
        correlation=spearman(rewards[mask], lengths[mask]),
        within=spearman_within(rewards, lengths, mask),
        longer_wins=float(wins[differ].mean()) if differ.any() else None,
        longer_is_better=float(longer[differ].mean()) if differ.any() else None,
        share=share,
        matched=accuracy(np.abs(better - worse) <= share * np.maximum(better, worse)),
        better_shorter=accuracy(shorter),
        better_longer=accuracy(longer),
    )


def spearman(a: Float[np.ndarray, "M"], b: Float[np.ndarray, "M"]) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None if either sample is constant."""
    return _pearson(rankdata(a), rankdata(b)) if len(a) else None


def spearman_within(
    a: Float[np.ndarray, "N K"], b: Float[np.ndarray, "N K"], mask: Bool[np.ndarray, "N K"]
) -> float | None:
    """The partial rank correlation given the list: ranks over all responses, the mean of each list taken off."""
    ranks = []
    for values in (a, b):
        table = np.zeros(values.shape)
        table[mask] = rankdata(values[mask]) if mask.any() else 0.0
        means = table.sum(axis=1, keepdims=True) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        ranks.append((table - means)[mask])
    return _pearson(*ranks)


def _pearson(a: Float[np.ndarray, "M"], b: Float[np.ndarray, "M"]) -> float | None:
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else None
