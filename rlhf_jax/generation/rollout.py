"""A rollout: sample responses, then score them under the reference, reward and value models."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.generation.decode import Completions, generate
from rlhf_jax.generation.sampling import SamplingSpec
from rlhf_jax.models import (
    ONE_MODEL,
    DecoderSpec,
    EnsembleSpec,
    apply_decoder,
    apply_reward_members,
    apply_value_model,
    causal_mask,
    output_logits,
    positions_of,
)
from rlhf_jax.objectives.aggregation import Aggregation, aggregate, spread
from rlhf_jax.objectives.likelihood import chunked_logprobs
from rlhf_jax.objectives.ppo import missing_eos_scores
from rlhf_jax.types import Params, PromptBatch, Rollout


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
    """What is frozen during a run of PPO, apart from parameters. Lengths in tokens.

    The members of ``ensemble`` give one reward by ``aggregate`` with its ``uncertainty_penalty``.
    """

    policy: DecoderSpec
    reward: DecoderSpec
    reward_bounded: bool
    max_response: int
    eos_id: int
    pad_id: int
    sampling: SamplingSpec
    missing_eos_score: float | None
    ensemble: EnsembleSpec = ONE_MODEL
    aggregate: Aggregation = "mean"
    uncertainty_penalty: float = 1.0


def complete(spec: RolloutSpec, policy: Params, prompts: PromptBatch, key: jax.Array) -> Completions:
    """Sampled responses to ``prompts``; row b draws from fold_in(key, prompts.row[b])."""
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, prompts.row)
    return generate(
        spec.policy,
        policy,
        prompts.ids,
        prompts.mask,
        row_keys,
        max_new_tokens=spec.max_response,
        sampling=spec.sampling,
        eos_id=spec.eos_id,
        pad_id=spec.pad_id,
    )


def response_logprobs(
    spec: DecoderSpec,
    params: Params,
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    response_length: int,
    temperature: float,
) -> Float[Array, "B R"]:
    """log p of the last ``response_length`` tokens of each row given the tokens before them, in nats."""
    hidden, _ = apply_decoder(spec, params, ids, positions_of(mask), causal_mask(mask))
    # Logits only where a response token is predicted: from the last prompt token on, the last token left out.
    return chunked_logprobs(
        hidden[:, -response_length - 1 : -1],
        ids[:, -response_length:],
        partial(output_logits, spec, params),
        temperature=temperature,
    )


def sample_rollout(
    spec: RolloutSpec,
    policy: Params,
    value: Params,
    reference: Params,
    reward: Params,
    prompts: PromptBatch,
    key: jax.Array,
    *,
    reward_bias: Float[Array, ""],
    reward_gain: Float[Array, ""],
) -> Rollout:
    """Responses of ``policy`` with all that an update needs; scores are gain * r + bias, before the EOS rule.

    The order of the arguments is that of the roles: what samples, what is trained beside it, what is frozen.
    """
    completions = complete(spec, policy, prompts, key)
    ids = jnp.concatenate([prompts.ids, completions.ids], axis=1)
    mask = jnp.concatenate([prompts.mask, completions.mask], axis=1)
    length = spec.max_response
    ref_logprobs = response_logprobs(
        spec.policy,
        reference,
        ids,
        mask,
        response_length=length,
        temperature=spec.sampling.temperature or 1.0,
    )
    values = apply_value_model(spec.reward, value, ids, mask)[:, -length - 1 : -1]
    members = apply_reward_members(spec.reward, spec.ensemble, reward, ids, mask, bounded=spec.reward_bounded)
    alone = spec.ensemble.members == 1
    raw = members[0] if alone else aggregate(members, spec.aggregate, spec.uncertainty_penalty)
    has_eos = jnp.any((completions.ids == spec.eos_id) & completions.mask, axis=1)
    return Rollout(
        prompt_ids=prompts.ids,
        prompt_mask=prompts.mask,
        response_ids=completions.ids,
        response_mask=completions.mask,
        logprobs=completions.logprobs,
        ref_logprobs=jnp.where(completions.mask, ref_logprobs, 0.0),
        values=jnp.where(completions.mask, values, 0.0),
        scores=missing_eos_scores(reward_gain * raw + reward_bias, has_eos, spec.missing_eos_score),
        raw_scores=raw,
        index=prompts.index,
        spread=None if alone else spread(members),
    )
