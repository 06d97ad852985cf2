"""Measurements on rewards that need no model: NumPy in, numbers out."""

from rlhf_jax.diagnostics.rewards import (
    distribution_summary,
    pair_accuracy,
    pair_accuracy_of_lists,
    rank_profile,
    wasserstein_1,
)

__all__ = [
    "distribution_summary",
    "pair_accuracy",
    "pair_accuracy_of_lists",
    "rank_profile",
    "wasserstein_1",
]
