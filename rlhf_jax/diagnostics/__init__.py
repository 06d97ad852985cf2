"""Measurements on rewards that need no model: NumPy in, numbers out."""

from rlhf_jax.diagnostics.collapse import Collapse, coincide, measure_collapse, rows_of_types
from rlhf_jax.diagnostics.rewards import (
    distribution_summary,
    pair_accuracy,
    pair_accuracy_of_lists,
    rank_profile,
    wasserstein_1,
)

__all__ = [
    "Collapse",
    "coincide",
    "distribution_summary",
    "measure_collapse",
    "pair_accuracy",
    "pair_accuracy_of_lists",
    "rank_profile",
    "rows_of_types",
    "wasserstein_1",
]
