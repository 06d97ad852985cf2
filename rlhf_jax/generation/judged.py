"""Answers of a policy with what a reference and, if there is one, a reward model make of them; no value model."""

import jax
import jax.numpy as jnp

from rlhf_jax.generation.rollout import RolloutSpec, complete, read_part, response_logprobs
from rlhf_jax.models import apply_reward_members
from rlhf_jax.objectives.aggregation import aggregate, spread
from rlhf_jax.objectives.ppo import missing_eos_scores
from rlhf_jax.types import Params, PromptBatch, Rollout


def sample_judged(
    spec: RolloutSpec, policy: Params, reference: Params, reward: Params | None, prompts: PromptBatch, key: jax.Array
) -> Rollout:
    """Responses of ``policy``; row b draws from fold_in(key, prompts.row[b]), as in PPO's rollouts.

    Values are 0, for nobody estimates them; without a reward model scores are NaN.
    """
    completions = complete(spec, policy, prompts, key)
    ids = jnp.concatenate([prompts.ids, completions.ids], axis=1)
    mask = jnp.concatenate([prompts.mask, completions.mask], axis=1)
    ref_logprobs = response_logprobs(
        spec.policy,
        reference,
        ids,
        mask,
        response_length=spec.max_response,
        temperature=spec.sampling.temperature or 1.0,
    )
    apart = None
    if reward is None:
        raw = scores = jnp.full(len(ids), jnp.nan, jnp.float32)
    else:
        members = apply_reward_members(spec.reward, spec.ensemble, reward, ids, mask, bounded=spec.reward_bounded)
        alone = spec.ensemble.members == 1
        raw = members[0] if alone else aggregate(members, spec.aggregate, spec.uncertainty_penalty)
        apart = None if alone else spread(members)
        finished = read_part(spec, completions)[1]
        scores = missing_eos_scores(raw, finished, spec.missing_eos_score, added=spec.missing_eos_added)
    return Rollout(
        prompt_ids=prompts.ids,
        prompt_mask=prompts.mask,
        response_ids=completions.ids,
        response_mask=completions.mask,
        logprobs=completions.logprobs,
        ref_logprobs=jnp.where(completions.mask, ref_logprobs, 0.0),
        values=jnp.zeros_like(ref_logprobs),
        scores=scores,
        raw_scores=raw,
        index=prompts.index,
        spread=apart,
    )
