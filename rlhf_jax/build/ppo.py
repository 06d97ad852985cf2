"""The PPO stage."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from rlhf_jax.build.common import flags, floats
from rlhf_jax.build.context import Context
from rlhf_jax.build.lora import lora_spec
from rlhf_jax.build.monitor import make_monitor
from rlhf_jax.build.ppo_evaluation import HeldOut, read_texts
from rlhf_jax.build.ppo_models import Forms, Networks, in_units_of_scores, load_networks
from rlhf_jax.build.ppo_rollout import Rollouts
from rlhf_jax.build.programs import Program
from rlhf_jax.build.rewards import load_reward_models, make_adder
from rlhf_jax.build.rooms import most_at_once, room_for, unpads, within
from rlhf_jax.build.segments import load_judges, make_payer
from rlhf_jax.build.shares import Shares
from rlhf_jax.build.specs import optimizer_spec, ppo_spec, regulariser
from rlhf_jax.data.examples import prompt_rows, sft_examples
from rlhf_jax.data.loader import Together, prompt_batches, sft_batches
from rlhf_jax.data.packing import pack_examples
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.policy import gold_metrics
from rlhf_jax.generation import Sampled, episodes, score
from rlhf_jax.learners import ppo
from rlhf_jax.learners.step import Metrics, init_state
from rlhf_jax.loop import BatchIterator, Task
from rlhf_jax.models import without_adapters
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, PromptBatch, Rollout, TokenBatch, TrainState
from rlhf_jax.unpadding import ALL, Room


@dataclasses.dataclass(frozen=True)
class PPOPrograms:
    """The three programs of an iteration, and what the state is made with.

    ``sample`` takes (policy, prompts, key), ``score`` (policy, value, reference, reward, prompts, sampled, extra),
    ``update`` (state, rollout, demonstrations, reference), the last only where ``takes_reference``.
    """

    spec: ppo.PPOSpec
    optimizer: optax.GradientTransformation
    sample: Program
    score: Program
    update: Program
    takes_reference: bool


def ppo_programs(context: Context, forms: Forms) -> PPOPrograms:
    """The programs of networks of these ``forms``."""
    config, eos_id, rolling = context.config, context.tokenizer.eos_id, forms.rolling
    spec = ppo_spec(config.ppo, forms.policy, forms.value)
    optimizer = _optimizer(config.ppo, own_value=forms.value is not None and not spec.shared)
    by_adapters = lora_spec(config, "ppo") is not None
    exact_loss = spec.kl.regulariser.estimator == "exact" and spec.kl.regulariser.in_loss

    def sample(policy: Params, prompts: PromptBatch, key: jax.Array, axis_name: Any) -> tuple[Sampled]:
        return (episodes(rolling, policy, prompts, key),)

    def scored(
        policy: Params,
        value: Params | None,
        reference: Params,
        reward: Params,
        prompts: PromptBatch,
        sampled: Sampled,
        extra: dict[str, Any],
        axis_name: Any,
        room: Room = ALL,
    ) -> tuple[Rollout]:
        return (score(rolling, policy, value, reference, reward, prompts, sampled, **extra, room=room),)

    def update(
        state: TrainState,
        rollout: Rollout,
        mixed: TokenBatch | None,
        reference: Params | None,
        axis_name: str | None,
        room: Room = ALL,
    ) -> tuple[TrainState, Metrics]:
        if exact_loss and by_adapters:  # part of the state itself, whose memory is given up to the call
            reference = without_adapters(state.params["policy"])
        return ppo.update(spec, optimizer, eos_id, state, rollout, mixed, reference, room=room, axis_name=axis_name)

    return PPOPrograms(
        spec,
        optimizer,
        Program("ppo.sample", sample, ("state", "rows", "replicated"), ("rows",), inference=True),
        Program("ppo.score", scored, ("state",) * 4 + ("rows", "rows", "replicated"), ("rows",), inference=True),
        Program("ppo.update", update, ("state", "rows", "rows", "state"), ("state", "replicated"), gives_up_state=True),
        takes_reference=exact_loss and not by_adapters,
    )


def first_extra(settings: ConfigDict, spec: ppo.PPOSpec) -> dict[str, Any]:
    """The scalars of a state before its rewards are put into units of their own."""
    return {
        "kl_coefficient": jnp.float32(settings.kl.coefficient),
        "reward_bias": jnp.float32(0.0),
        "reward_gain": jnp.float32(settings.dense.sequence),
        **ppo.running_moments(spec),
    }


def ppo_task(context: Context) -> Task:
    """Optimise the SFT policy against the reward model, both taken from their checkpoints."""
    config, executor = context.config, context.executor
    settings, key = config.ppo, context.stage_key("ppo")
    judges, others = load_judges(context), load_reward_models(context)
    networks = load_networks(context, judges, key)
    # No function that lives as long as the task holds ``networks``: it has what was loaded, and what is placed below.
    frozen, programs = networks.frozen, ppo_programs(context, networks.forms)
    spec = programs.spec
    count = settings.prompts_per_iteration * settings.samples_per_prompt
    # Programs by the room that they have; the order of minibatches tells how much an update needs.
    unpadded = unpads(config, spec.policy, executor.mesh.size)
    rollouts = Rollouts(context, frozen, programs.sample, programs.score, unpadded=unpadded)
    compiled_update = functools.cache(lambda room: within(programs.update, room).compile(executor))
    orders_of = jax.jit(functools.partial(ppo.minibatches, spec, count=count))
    keys_of = jax.jit(ppo.step_keys)
    slots = count // spec.minibatches // spec.microbatches * rollouts.slots
    pay, add = make_payer(context, judges), make_adder(context, others)
    shares = Shares()

    def sample(params: Params, extra: dict[str, Any], prompts: PromptBatch, key: jax.Array) -> Rollout:
        return rollouts(params, extra, prompts, key)[0]

    def answer(params: Params, extra: dict[str, Any], prompts: PromptBatch, key: jax.Array) -> Rollout:
        return add(pay(sample(params, extra, prompts, key)))

    held_out = HeldOut(context, spec, lambda params: frozen(params)[0], count, key)
    extra = first_extra(settings, spec)
    if settings.normalize_reward or settings.rewards.centre:
        scores = held_out.answers(sample, networks.start, extra).raw_scores
        if bad := int(np.sum(~np.isfinite(scores))):
            raise UserError(
                f"config.parents.reward: the reward model gives {bad} of {len(scores)} answers to held-out prompts a "
                "reward that is not finite"
            )
        gain = settings.dense.sequence / (max(float(scores.std()), 1e-6) if settings.normalize_reward else 1.0)
        extra |= {"reward_gain": jnp.float32(gain), "reward_bias": jnp.float32(-gain * float(scores.mean()))}
    begun = networks.start
    if networks.forms.value is not None and settings.value.init == "reward":
        units = float(extra["reward_gain"]), float(extra["reward_bias"])
        begun = {**begun, "value": in_units_of_scores(begun["value"], *units)}
    state = executor.place(init_state(begun, programs.optimizer, key, extra), "state")

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        prompts, demonstrations = batch if settings.pretraining.coefficient else (batch, None)
        spent, orders = shares.begin(), orders_of(state) if unpadded else None
        key = keys_of(state)[0]
        rollout, lengths = rollouts(state.params, state.extra, prompts, key, shares.expect)
        rollout = add(pay(rollout))
        shares.expect("scoring", rollout.scores)
        mixed = None if demonstrations is None else executor.place(demonstrations, "rows")
        reference = frozen(state.params)[0] if programs.takes_reference else None
        room = ALL
        if orders is not None:
            room = room_for(most_at_once(np.asarray(orders), lengths, spec.microbatches), slots)
        state, metrics = compiled_update(room)(state, rollout, mixed, reference)
        shares.settle()  # the update of the iteration before, and this one's rollout; its own update is on its way
        shares.expect("update", metrics["loss"])
        read = rollout.response_ids, rollout.response_mask, rollout.read_mask, rollout.index
        return state, (metrics, read, spent)

    def finish(out: Any) -> dict[str, float]:
        *found, spent = out
        metrics, (ids, mask, read_mask, index) = to_host(found)
        records = [context.data.prompts[i] for i in index]
        gold = gold_metrics(records, read_texts(context, ids, mask, read_mask), context.data.gold)
        return floats(metrics) | gold | shares.metrics(spent)

    return Task(
        name="ppo",
        total_steps=settings.iterations,
        state=state,
        batches=_batches(context),
        step=step,
        finish=finish,
        flags=flags,
        evaluate=lambda state, final: held_out.evaluate(answer, state, final),
        log_every=1,
        eval_every=settings.eval_every,
        notes=_notes(settings, networks),
        monitor=make_monitor(settings.monitor),
        halts=settings.monitor.action == "stop",
    )


def _optimizer(settings: ConfigDict, *, own_value: bool) -> Any:
    updates = settings.iterations * settings.epochs * settings.minibatches
    return ppo.make_ppo_optimizer(
        optimizer_spec(settings.optimizer, updates),
        optimizer_spec(settings.optimizer, updates, settings.value_learning_rate) if own_value else None,
    )


def _batches(context: Context) -> BatchIterator:
    """Prompts; with a pretraining mix each with the demonstrations of one iteration, in packed rows."""
    config, tokenizer, settings = context.config, context.tokenizer, context.config.ppo
    data = config.data
    prompts = prompt_batches(
        prompt_rows(context.data.prompts, tokenizer, data.max_prompt)[0],
        settings.prompts_per_iteration,
        settings.samples_per_prompt,
        data.max_prompt,
        config.seed,
        tokenizer.pad_id,
    )
    if not settings.pretraining.coefficient:
        return prompts
    examples, _ = sft_examples(context.data.sft, tokenizer, data.max_prompt, data.max_response)
    rows = pack_examples(examples, config.sft.row_length, tokenizer.pad_id)
    number = settings.pretraining.rows * settings.epochs * settings.minibatches
    return Together(prompts=prompts, demonstrations=sft_batches(rows, number, config.seed))


def _notes(settings: ConfigDict, networks: Networks) -> tuple[str, ...]:
    """Warnings where a gradient is not what its name promises, and what is shared."""
    shared = ("the reward model is a head on the reference: one forward pass reads both",)
    return biases(settings) + (shared if networks.forms.rolling.one_trunk else ())


def biases(settings: ConfigDict) -> tuple[str, ...]:
    """Where ``config.ppo`` has another gradient than that of rewards less the price of divergence."""
    found = []
    price = regulariser(settings) if settings.kl.coefficient else None
    if price is not None and price.bias() is not None:
        found.append(f"config.ppo.kl is biased: {price.bias()}")
    if price is not None and settings.advantage == "grpo" and (price.placement == "both" or price.corrects):
        found.append(
            "config.ppo.advantage=grpo divides rewards by the deviation of each group, and with them a part of the "
            "price of divergence; the part outside the reward stays what it is"
        )
    if settings.top_k or settings.top_p < 1:
        found.append("config.ppo.top_k and top_p sample from a cut law: gradients and divergences are of the whole one")
    if settings.gamma < 1:
        found.append("config.ppo.gamma < 1 discounts the price of divergence too: its gradient is biased")
    if settings.rewards.whiten and settings.episode == "until_eos":
        found.append(
            "config.ppo.rewards.whiten pays every token a constant (or fines it), so it rewards length (or brevity) "
            "where episodes end by themselves"
        )
    return tuple(found)
