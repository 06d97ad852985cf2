"""Sampling: one token, one completion, one rollout."""

from rlhf_jax.generation.decode import Completions, generate
from rlhf_jax.generation.judged import sample_judged
from rlhf_jax.generation.rollout import (
    RolloutSpec,
    Sampled,
    complete,
    ended,
    episodes,
    response_logprobs,
    sample_rollout,
    score,
)
from rlhf_jax.generation.sampling import SamplingSpec, sample_token

__all__ = [
    "Completions",
    "RolloutSpec",
    "Sampled",
    "SamplingSpec",
    "complete",
    "ended",
    "episodes",
    "generate",
    "response_logprobs",
    "sample_judged",
    "sample_rollout",
    "sample_token",
    "score",
]
