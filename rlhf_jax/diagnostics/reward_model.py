"""All that is measured of a reward model on lists that people ranked, in one go."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.diagnostics.calibration import Calibration, best_temperature, calibration
from rlhf_jax.diagnostics.length import MATCHED, LengthBias, length_bias
from rlhf_jax.diagnostics.ordering import (
    Accuracy,
    accuracy_by_distance,
    accuracy_by_size,
    accuracy_by_type,
    kendall_tau,
    ndcg,
    relevance_of_ranks,
)
from rlhf_jax.diagnostics.pairs import better_by_rank, pairs_of_lists, right_order


@dataclasses.dataclass(frozen=True)
class RewardReading:
    """What N lists show of a reward model; None where there is nothing to measure it on.

    Accuracies are over pairs, ``kendall_tau`` (tau-b) and ``ndcg`` (gain: tiers below a response) means over the lists
    in which they are defined. ``raw`` is the calibration at the temperature asked for, ``calibrated`` at the one that
    fits these pairs best, which makes rewards of different scales comparable.
    """

    lists: int
    responses: int
    pairs: int
    accuracy: float | None
    by_type: dict[str, Accuracy]
    by_size: dict[int, Accuracy]
    by_distance: dict[int, Accuracy]
    kendall_tau: float | None
    ndcg: float | None
    raw: Calibration | None
    calibrated: Calibration | None
    length: LengthBias | None


def measure_reward_model(
    rewards: Float[np.ndarray, "N K"],
    ranks: Int[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
    types: Sequence[str],
    *,
    better: Bool[np.ndarray, "N K K"] | None = None,
    lengths: Float[np.ndarray, "N K"] | None = None,
    temperature: float = 1.0,
    share: float = MATCHED,
) -> RewardReading:
    """Measure N lists of up to K responses. Rewards that are not finite are left out.

    ``better`` says which responses were compared where the ranks (0 is best) do not: see ``pairs_of_lists``.
    ``lengths`` are in tokens, NaN where unknown; length bias is measured if all are known. Pair probabilities are
    sigma((r_better - r_worse) / temperature). Lengths that differ by at most ``share`` of the longer are matched.
    """
    mask = mask & np.isfinite(rewards)
    rewards = np.where(mask, rewards, 0.0)
    better = better_by_rank(ranks, mask) if better is None else better
    pairs = pairs_of_lists(better, ranks, mask)
    above, below = pairs.of(rewards)
    gaps = above - below
    known = lengths is not None and bool(mask.any()) and not np.isnan(lengths[mask]).any()
    return RewardReading(
        lists=int(mask.any(axis=1).sum()),
        responses=int(mask.sum()),
        pairs=len(pairs),
        accuracy=float(right_order(rewards, pairs).mean()) if len(pairs) else None,
        by_type=accuracy_by_type(rewards, pairs, types),
        by_size=accuracy_by_size(rewards, pairs, mask),
        by_distance=accuracy_by_distance(rewards, pairs),
        kendall_tau=_mean(kendall_tau(rewards, better, mask)),
        ndcg=_mean(ndcg(rewards, relevance_of_ranks(ranks, mask), mask)),
        raw=calibration(gaps, temperature) if len(pairs) else None,
        calibrated=calibration(gaps, best_temperature(gaps)) if len(pairs) else None,
        length=length_bias(rewards, lengths, mask, pairs, share) if lengths is not None and known else None,
    )


def reading_metrics(reading: RewardReading) -> dict[str, float]:
    """The headline numbers by their metric names; what is not known is left out."""
    found: dict[str, float | None] = {"kendall_tau": reading.kendall_tau, "ndcg": reading.ndcg}
    if reading.raw and reading.calibrated:
        found |= {
            "log_loss": reading.raw.log_loss,
            "brier": reading.raw.brier,
            "ece": reading.raw.reliability.ece,
            "temperature": reading.calibrated.temperature,
            "log_loss_calibrated": reading.calibrated.log_loss,
            "ece_calibrated": reading.calibrated.reliability.ece,
        }
    if reading.length:
        found["length_correlation"] = reading.length.correlation
    found |= {f"accuracy_at_distance.{distance}": one.accuracy for distance, one in reading.by_distance.items()}
    return {name: value for name, value in found.items() if value is not None}


def as_plain(value: Any) -> Any:
    """Dataclasses, mappings and arrays as what JSON knows; numbers that are not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        derived = {name: getattr(value, name) for name, kind in vars(type(value)).items() if isinstance(kind, property)}
        return as_plain(fields | derived)
    if isinstance(value, Mapping):
        return {str(name): as_plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return as_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: Float[np.ndarray, "N"]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
