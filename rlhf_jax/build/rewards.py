"""Further reward models of whole responses that PPO follows, taken from other runs."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rlhf_jax.build.context import Context, checked_run, restore
from rlhf_jax.build.lora import adapted
from rlhf_jax.build.specs import decoder_spec, ensemble_spec, trained_bounded
from rlhf_jax.config import kind_and_level
from rlhf_jax.generation import ended
from rlhf_jax.models import DecoderSpec, EnsembleSpec, apply_reward_members, init_reward_model, merge
from rlhf_jax.objectives.aggregation import mean
from rlhf_jax.types import Params, Rollout

KEY = "config.ppo.rewards.models"


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """The reward model of another run, the mean over its members, and what its rewards are multiplied by."""

    name: str
    decoder: DecoderSpec
    ensemble: EnsembleSpec
    bounded: bool
    params: Params
    weight: float


def load_reward_models(context: Context) -> tuple[RewardModel, ...]:
    """Those that ``config.ppo.rewards.models`` names.

    Raises:
      UserError: a run has no reward model, or another tokenizer.
    """
    models: list[RewardModel] = []
    for entry in context.config.ppo.rewards.models:
        run, weight = kind_and_level(entry)
        config = checked_run(context, Path(run), KEY)
        decoder, form = decoder_spec(config.model, context.tokenizer.vocab_size), ensemble_spec(config.reward)
        init = adapted(config, "reward", partial(init_reward_model, decoder, ensemble=form), form)
        params = merge(restore(context, Path(run) / "checkpoints" / "reward", KEY, init))
        name, same = Path(run).name, sum(Path(run).name == model.name.partition("~")[0] for model in models)
        bounded = trained_bounded(config.reward)
        models.append(RewardModel(f"{name}~{same}" if same else name, decoder, form, bounded, params, float(weight)))
    return tuple(models)


def make_adder(context: Context, models: tuple[RewardModel, ...]) -> Callable[[Rollout], Rollout]:
    """The function that adds their rewards to a rollout's; a score that the missing-EOS rule replaced stays."""
    replaces, eos_id = context.config.ppo.missing_eos.rule == "replace", context.tokenizer.eos_id

    def add(model: RewardModel, params: Params, rollout: Rollout, axis_name: Any) -> tuple[Rollout]:
        read = rollout.response_mask if rollout.read_mask is None else rollout.read_mask
        ids = jnp.concatenate([rollout.prompt_ids, rollout.response_ids], axis=1)
        mask = jnp.concatenate([rollout.prompt_mask, read], axis=1)
        members = apply_reward_members(model.decoder, model.ensemble, params, ids, mask, bounded=model.bounded)
        part = model.weight * mean(members)
        added = jnp.where(ended(rollout, eos_id), part, 0.0) if replaces else part
        parts = {"own": rollout.raw_scores} if rollout.parts is None else rollout.parts
        return (
            dataclasses.replace(
                rollout,
                scores=rollout.scores + added,
                raw_scores=rollout.raw_scores + part,
                parts={**parts, model.name: part},
            ),
        )

    compiled = [context.executor.compile(partial(add, model), ("state", "rows"), ("rows",)) for model in models]

    def adder(rollout: Rollout) -> Rollout:
        for model, function in zip(models, compiled, strict=True):
            rollout = function(model.params, rollout)[0]
        return rollout

    return adder
