"""What PPO starts from: the networks that are trained, those that stay as they are, and a policy taken out again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlhf_jax.build.context import Context, load_parent, made_by, stage_config, stage_decoder, stage_ensemble
from rlhf_jax.build.lora import adapt, lora_spec
from rlhf_jax.build.segments import Judge
from rlhf_jax.build.specs import rollout_spec, stop_token, trained_bounded
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.errors import UserError
from rlhf_jax.generation import RolloutSpec
from rlhf_jax.models import (
    ONE_MODEL,
    DecoderSpec,
    EnsembleSpec,
    head_of,
    init_decoder,
    merge,
    representative,
    silent_value_head,
    value_from_reward,
    without_adapters,
)
from rlhf_jax.types import Params

# Parameters in training to those that stay as they are: reference and reward model.
Frozen = Callable[[Params], tuple[Params, Params]]


@dataclasses.dataclass(frozen=True)
class Forms:
    """What the networks of a run of PPO are, apart from their parameters.

    ``value`` is the decoder of a value model, None without one; ``ensemble`` and ``bounded`` are of the reward model.
    """

    policy: DecoderSpec
    reward: DecoderSpec
    value: DecoderSpec | None
    ensemble: EnsembleSpec
    bounded: bool
    rolling: RolloutSpec


@dataclasses.dataclass(frozen=True)
class Networks:
    """The models of a run of PPO: ``start`` holds what is trained.

    ``reference`` and ``reward`` are what was loaded; where the decoder of the reward model is the reference, its head
    alone. With adapters in training ``frozen`` keeps no decoder of theirs that is in training beneath adapters.
    """

    forms: Forms
    start: Params
    reference: Params
    reward: Params
    frozen: Frozen


def load_networks(context: Context, judges: tuple[Judge, ...], key: jax.Array) -> Networks:
    """SFT policy and reward model from their checkpoints, and the value model that ``config.ppo`` asks for."""
    config = context.config
    whole = bool(config.ppo.dense.sequence)  # whether a reward model of whole responses is followed
    forms = forms_of(context, None if whole else judges[0].decoder)
    reference = load_parent(context, "sft", forms.policy)
    reward = load_parent(context, "reward", forms.reward) if whole else judges[0].silent_reward_model()
    start = start_of(config, forms, reference, reward)
    if forms.policy == forms.reward and _one_decoder(forms.ensemble) and _equal(reference, reward["decoder"]):
        forms, reward = with_one_trunk(forms), head_of(reward)
    frozen = frozen_of(config, forms, reference, reward)
    return Networks(forms, adapt(config, "ppo", start, key), reference, reward, frozen)


def forms_of(context: Context, judge: DecoderSpec | None) -> Forms:
    """What ``config.ppo`` and the parents' configurations ask for; ``judge`` is the decoder of the fine-grained reward
    model, where that alone is followed.
    """
    config, tokenizer, settings = context.config, context.tokenizer, context.config.ppo
    policy = stage_decoder(context, "sft")
    reward = judge or stage_decoder(context, "reward")
    bounded = judge is None and trained_bounded(stage_config(config, "reward").reward)
    form = stage_ensemble(config, "reward") if judge is None else ONE_MODEL
    value = (reward if settings.value.init == "reward" else policy) if settings.advantage == "gae" else None
    rolling = rollout_spec(
        config,
        policy,
        reward,
        bounded=bounded,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        ensemble=form,
        stop_id=stop_token(config, tokenizer),
        value=value,
        samples=config.ppo.samples_per_prompt,
    )
    return Forms(policy, reward, value, form, bounded, rolling)


def with_one_trunk(forms: Forms) -> Forms:
    """The same where the decoder of the reward model is the reference."""
    return dataclasses.replace(forms, rolling=dataclasses.replace(forms.rolling, one_trunk=True))


def start_of(config: ConfigDict, forms: Forms, reference: Params, reward: Params) -> Params:
    """What is trained, before adapters: the policy, and the value model that ``config.ppo`` asks for."""
    start, value = {"policy": reference}, config.ppo.value
    if forms.value is None:
        return start
    if value.network == "shared":
        return {**start, "value": {"head": silent_value_head(forms.policy)}}
    if value.init == "zero":
        return {**start, "value": {"decoder": reference, "head": silent_value_head(forms.policy)}}
    return {**start, "value": value_from_reward(representative(reward, forms.ensemble), bounded=forms.bounded)}


def frozen_of(config: ConfigDict, forms: Forms, reference: Params, reward: Params) -> Frozen:
    """From parameters in training to reference and reward model."""
    if lora_spec(config, "ppo") is None:
        return lambda _: (reference, reward)
    value = config.ppo.value
    started = forms.value is not None and (value.network, value.init) == ("separate", "reward")
    return _beneath(reward, in_value=started and _one_decoder(forms.ensemble) and "decoder" in reward)


def in_units_of_scores(value: Params, gain: float, bias: float) -> Params:
    """A value model that says what the reward model does, made to say gain x that + bias, as scores are made of it."""
    head = value["head"]
    kernel, own = head["kernel"], head["bias"]
    scaled = {
        "kernel": (kernel * gain).astype(kernel.dtype),
        "bias": (own * gain + bias).astype(own.dtype),
    }
    return {**value, "head": scaled}


def _beneath(reward: Params, *, in_value: bool) -> Frozen:
    """The reference is the policy without its adapters, and the reward model's decoder, if ``in_value``, that of the
    value model without its own.
    """
    if not in_value:
        return lambda params: (without_adapters(params["policy"]), reward)
    head = head_of(reward)
    return lambda params: (
        without_adapters(params["policy"]),
        {**head, "decoder": without_adapters(params["value"]["decoder"])},
    )


def _one_decoder(form: EnsembleSpec) -> bool:
    return form.members == 1 or form.kind == "heads"


def _equal(one: Params, other: Params) -> bool:
    """Whether the parameters of two decoders of one spec are the same numbers."""
    return all(bool(jnp.array_equal(a, b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def load_policy(context: Context, directory: Path, named: str, decoder: DecoderSpec) -> Params:
    """The policy of the newest PPO checkpoint in a folder, with or without a value model beside it; adapters merged.

    Raises:
      UserError: there is no checkpoint (begins with ``named``, what led there), it is damaged, or its policy has other
        shapes.
    """
    step = None
    if directory.is_dir():
        with Checkpoints(directory, identity=made_by(context, "ppo")) as checkpoints:
            step = checkpoints.latest()
            found = None if step is None else checkpoints.read_params(step)
    if step is None or found is None:
        raise UserError(f"{named}: no checkpoints in {directory}")
    policy = merge(found.get("policy", {}))
    shapes, wanted = (
        jax.tree.map(lambda leaf: leaf.shape, tree)
        for tree in (policy, jax.eval_shape(lambda key: init_decoder(decoder, key), jax.random.key(0)))
    )
    if shapes != wanted:
        raise UserError(
            f"{directory / str(step)}: its policy has other shapes than a decoder of the run's config.model"
        )
    return context.executor.place(policy, "state")
