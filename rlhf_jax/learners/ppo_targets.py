"""What policy and value model are to be moved to: advantages and returns, over the whole of a rollout."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.learners.ppo_spec import PPOSpec, RewardRules
from rlhf_jax.objectives import baselines
from rlhf_jax.objectives.advantages import generalized_advantages, one_more, score_place, token_rewards
from rlhf_jax.objectives.masked import masked_whiten, whitening_factor
from rlhf_jax.objectives.moments import Moments, add_batch, deviation, no_moments
from rlhf_jax.objectives.regularisers import advantage_correction, reward_penalty
from rlhf_jax.types import Rollout

# In a state's ``extra``: moments of the scores of episodes, and of the returns of tokens.
SCORES, RETURNS = "score_moments", "return_moments"


class Targets(NamedTuple):
    """Over t in [0, R): advantages, whitened if asked; returns = raw advantage + value, None without a value model.

    ``value_targets`` are the returns in the units of the value model, ``extra`` the state's with this rollout seen.
    ``unit`` is the factor by which rewards have reached the advantages (1 of GRPO, see ``unit_of_advantages``).
    """

    advantages: Float[Array, "N R"]
    returns: Float[Array, "N R"] | None
    value_targets: Float[Array, "N R"] | None
    extra: dict[str, Any]
    unit: Float[Array, ""] | float


def running_moments(spec: PPOSpec) -> dict[str, Moments]:
    """What a state's ``extra`` begins with, for those rules that remember."""
    used = {SCORES: spec.rewards.scale, RETURNS: spec.normalize_value}
    return {name: no_moments() for name, kept in used.items() if kept}


def kept_tokens(spec: PPOSpec, rollout: Rollout) -> Bool[Array, "N R"]:
    """The tokens that the policy learns from."""
    mask = rollout.response_mask
    if not spec.mask_unfinished or rollout.finished is None:
        return mask
    return mask & rollout.finished[:, None]


def valued_slots(spec: PPOSpec, mask: Bool[Array, "N R"]) -> Bool[Array, "N R"]:
    """The slots that have a value: those of the tokens, and the one past them where the score is paid there."""
    return one_more(mask) if spec.rewards.score_at == "after" else mask


def values_of(spec: PPOSpec, rollout: Rollout, extra: Mapping[str, Any]) -> Float[Array, "N R"]:
    """The rollout's values in units of reward.

    Raises:
      ValueError: it has none.
    """
    if rollout.values is None:
        raise ValueError("the rollout was made without a value model")
    if not spec.normalize_value:
        return rollout.values
    return extra[RETURNS].mean + deviation(extra[RETURNS]) * rollout.values


def task_rewards(
    rules: RewardRules, rollout: Rollout, extra: dict[str, Any]
) -> tuple[Float[Array, "N"], Float[Array, "N R"] | None, dict[str, Any]]:
    """(scores, dense rewards, extra) after scaling and clipping; what is paid at once for an episode is one score."""
    scores, dense = rollout.scores, rollout.dense
    if rules.scale:
        whole = scores if dense is None else scores + jnp.sum(jnp.where(rollout.response_mask, dense, 0.0), axis=1)
        seen = add_batch(extra[SCORES], whole, jnp.ones(whole.shape, bool))
        extra = {**extra, SCORES: seen}
        scores, dense = jax.tree.map(lambda paid: paid / deviation(seen), (scores, dense))
    if rules.clip:
        scores, dense = jax.tree.map(lambda paid: jnp.clip(paid, -rules.clip, rules.clip), (scores, dense))
    return scores, dense, extra


def paid_rewards(
    spec: PPOSpec, rollout: Rollout, kl_coefficient: Float[Array, ""], extra: dict[str, Any]
) -> tuple[Float[Array, "N R"], dict[str, Any], Float[Array, ""] | float]:
    """(r_t, extra, factor of whitening): the price of divergence, the score at its place, and what fine-grained reward
    models pay.
    """
    mask = rollout.response_mask
    read = mask if rollout.read_mask is None else rollout.read_mask
    scores, dense, extra = task_rewards(spec.rewards, rollout, extra)
    places = jax.vmap(partial(score_place, at=spec.rewards.score_at))(mask, read)
    divergences = jax.vmap(partial(reward_penalty, spec.kl.regulariser))(
        log_ratio=rollout.logprobs - rollout.ref_logprobs, mask=mask, exact=rollout.divergences
    )
    rewards = jax.vmap(partial(token_rewards, kl_coefficient=kl_coefficient))(
        score=scores,
        logprobs=rollout.logprobs,
        ref_logprobs=rollout.ref_logprobs,
        mask=mask,
        divergences=divergences,
        place=places,
    )
    if dense is not None:
        rewards += jnp.where(mask, dense, 0.0)
    if not spec.rewards.whiten:
        return rewards, extra, 1.0
    slots = valued_slots(spec, mask)
    return masked_whiten(rewards, slots, shift_mean=False), extra, whitening_factor(rewards, slots)


def targets(
    spec: PPOSpec,
    rollout: Rollout,
    kl_coefficient: Float[Array, ""],
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> Targets:
    """What policy and value model are to be moved to; ``extra`` is the state's."""
    before = dict(extra)
    rewards, after, unit = paid_rewards(spec, rollout, kl_coefficient, before)
    mask, kept = rollout.response_mask, kept_tokens(spec, rollout)
    returns = value_targets = None
    if spec.advantage == "gae":
        slots, values = valued_slots(spec, mask), values_of(spec, rollout, before)
        advantages = jax.vmap(partial(generalized_advantages, gamma=spec.gamma, lambda_=spec.lambda_))(
            rewards=rewards, values=values, mask=slots
        )
        returns = value_targets = jnp.where(slots, advantages + values, 0.0)
        if spec.normalize_value:
            seen = add_batch(before[RETURNS], returns, slots & jnp.any(kept, axis=1)[:, None])
            after = {**after, RETURNS: seen}
            value_targets = (returns - seen.mean) / deviation(seen)
    else:
        advantages = without_value_model(spec, rewards, mask)
        unit = unit_of_advantages(spec, unit)
    if spec.kl.regulariser.corrects:
        advantages -= (
            unit
            * kl_coefficient
            * jax.vmap(partial(advantage_correction, spec.kl.regulariser))(
                log_ratio=rollout.logprobs - rollout.ref_logprobs, mask=mask
            )
        )
    if spec.advantage == "reinforce_pp" or (spec.advantage == "gae" and spec.whiten_advantages):
        unit *= whitening_factor(advantages, kept)
        advantages = masked_whiten(advantages, kept)
    if spec.advantage_clip:
        advantages = jnp.clip(advantages, -spec.advantage_clip, spec.advantage_clip)
    return Targets(advantages, returns, value_targets, after, unit)


def without_value_model(spec: PPOSpec, rewards: Float[Array, "N R"], mask: Bool[Array, "N R"]) -> Float[Array, "N R"]:
    """The advantages that need no value model, by name."""
    if spec.advantage == "reinforce":
        return baselines.reinforce(rewards, mask, spec.gamma)
    if spec.advantage == "reinforce_pp":
        return baselines.reinforce_pp(rewards, mask, spec.gamma, spec.group if spec.group_baseline else 1)
    estimate = {"rloo": baselines.rloo, "grpo": baselines.grpo, "dr_grpo": baselines.dr_grpo}[spec.advantage]
    return estimate(rewards, mask, spec.group)


def unit_of_advantages(spec: PPOSpec, unit: Float[Array, ""] | float) -> Float[Array, ""] | float:
    """The factor by which rewards of the factor ``unit`` reach the expected gradient by these advantages.

    Less a mean that holds the episode's own total it is (G-1)/G. GRPO's deviations differ from group to group, and that
    of a group that agrees is 0: there is no one factor, and prices outside the reward stay what they are, as published.
    """
    if spec.advantage == "grpo":
        return 1.0
    return unit * (spec.group - 1) / spec.group if spec.advantage == "dr_grpo" or spec.group_baseline else unit
