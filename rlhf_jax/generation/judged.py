"""Answers of a policy with what a reference and, if there is one, a reward model make of them; no value model."""

import jax
import jax.numpy as jnp

from rlhf_jax.generation.rollout import RolloutSpec, episodes, response_logprobs, sample_rollout
from rlhf_jax.types import Params, PromptBatch, Rollout


def sample_judged(
    spec: RolloutSpec, policy: Params, reference: Params, reward: Params | None, prompts: PromptBatch, key: jax.Array
) -> Rollout:
    """Responses of ``policy`` as PPO samples them; without a reward model scores are NaN."""
    if reward is not None:
        neutral = {"reward_bias": jnp.float32(0.0), "reward_gain": jnp.float32(1.0)}
        return sample_rollout(spec, policy, None, reference, reward, prompts, key, **neutral)
    completions, read, finished = episodes(spec, policy, prompts, key)
    ref_logprobs = response_logprobs(
        spec.policy,
        reference,
        jnp.concatenate([prompts.ids, completions.ids], axis=1),
        jnp.concatenate([prompts.mask, completions.mask], axis=1),
        response_length=spec.max_response,
        temperature=spec.sampling.temperature or 1.0,
    )
    scores = jnp.full(len(prompts.ids), jnp.nan, jnp.float32)
    return Rollout(
        prompt_ids=prompts.ids,
        prompt_mask=prompts.mask,
        response_ids=completions.ids,
        response_mask=completions.mask,
        logprobs=completions.logprobs,
        ref_logprobs=jnp.where(completions.mask, ref_logprobs, 0.0),
        values=None,
        scores=scores,
        raw_scores=scores,
        index=prompts.index,
        read_mask=read if spec.fixed else None,
        finished=finished if spec.cuts or spec.keeps_finished else None,
    )
