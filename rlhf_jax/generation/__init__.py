"""Sampling: one token, one completion, one rollout."""

from rlhf_jax.generation.decode import Completions, generate
from rlhf_jax.generation.judged import sample_judged
from rlhf_jax.generation.rollout import RolloutSpec, complete, ended, response_logprobs, sample_rollout
from rlhf_jax.generation.sampling import SamplingSpec, sample_token

__all__ = [
    "Completions",
    "RolloutSpec",
    "SamplingSpec",
    "complete",
    "ended",
    "generate",
    "response_logprobs",
    "sample_judged",
    "sample_rollout",
    "sample_token",
]
