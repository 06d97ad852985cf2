"""Measurements on rewards that need no model: NumPy in, numbers out."""

from rlhf_jax.diagnostics.calibration import Bayes, bayes
from rlhf_jax.diagnostics.collapse import Collapse, coincide, distances, is_far, measure_collapse, rows_of_types
from rlhf_jax.diagnostics.reward_model import RewardReading, as_plain, measure_reward_model, reading_metrics
from rlhf_jax.diagnostics.rewards import (
    distribution_summary,
    pair_accuracy,
    pair_accuracy_of_lists,
    rank_profile,
    wasserstein_1,
)

__all__ = [
    "Bayes",
    "Collapse",
    "RewardReading",
    "as_plain",
    "bayes",
    "coincide",
    "distances",
    "distribution_summary",
    "is_far",
    "measure_collapse",
    "measure_reward_model",
    "pair_accuracy",
    "pair_accuracy_of_lists",
    "rank_profile",
    "reading_metrics",
    "rows_of_types",
    "wasserstein_1",
]
