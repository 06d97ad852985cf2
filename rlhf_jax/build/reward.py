"""The reward-model stages: ``reward`` (prompt-aware if so configured) and ``reward_common`` (one utility for all)."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rlhf_jax.build.common import flags, list_sizes, task_parts, truncation_metrics, truncation_note
from rlhf_jax.build.context import Context, load_parent
from rlhf_jax.build.lora import adapt
from rlhf_jax.build.pretrained import start_decoder
from rlhf_jax.build.programs import Learning, learning
from rlhf_jax.build.reward_evaluation import RewardEvaluator
from rlhf_jax.build.specs import decoder_spec, ensemble_spec, optimizer_spec, reward_spec, utility_table
from rlhf_jax.data.examples import list_examples, types_in_turn
from rlhf_jax.data.loader import rank_batches
from rlhf_jax.learners import ensemble, reward
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.reward import RewardSpec
from rlhf_jax.learners.step import sum_over_devices, train_step
from rlhf_jax.loop import Evaluation, Task
from rlhf_jax.models import DecoderSpec, EnsembleSpec, head_of, init_reward_model, trained, with_decoder
from rlhf_jax.types import Params, RankBatch, TrainState

OF_PAIRS = ("pair_accuracy", "gap_mean")  # metrics of a step
RESAMPLING = 2**32 - 3  # the stream of a stage's key from which lists are resampled


def reward_learning(config: ConfigDict, stage: str, spec: RewardSpec, key: jax.Array) -> Learning:
    """The update of a reward model; ``key`` is the stage's."""
    settings = config.reward
    bootstrap = jax.random.fold_in(key, RESAMPLING) if settings.ensemble.bootstrap else None
    training, _, make, norm = _losses(spec, ensemble_spec(settings), bootstrap)
    part = head_of if settings.train == "head" else trained
    step = partial(train_step, training, norm=norm, microbatches=settings.accumulate, part=part)
    return learning(stage, step, optimizer_spec(settings.optimizer, settings.steps), make, part)


def reward_task(context: Context, stage: str) -> Task:
    """Train a reward model on the ranked lists, from the SFT decoder, another reward model or scratch."""
    config, executor, tokenizer = context.config, context.executor, context.tokenizer
    data = config.data
    prompt_aware = stage == "reward"
    decoder = decoder_spec(config.model, tokenizer.vocab_size)
    spec = reward_spec(config.reward, decoder, prompt_aware=prompt_aware)
    form = ensemble_spec(config.reward)
    table = utility_table(config.reward, prompt_aware=prompt_aware)
    utility_index = table[1]
    lists, counts = list_examples(context.data.lists, tokenizer, data.max_prompt, data.max_response)
    held_out, held_out_counts = list_examples(
        context.data.lists_validation, tokenizer, data.max_prompt, data.max_response
    )
    seen = types_in_turn(lists, config.reward.eval_train)
    key = context.stage_key(stage)

    def init() -> Params:
        if config.reward.init == "reward":
            return load_parent(context, "reward_start", decoder)
        if config.reward.init == "scratch" and not config.model.path:
            made: Params = executor.make(partial(init_reward_model, decoder, ensemble=form), key)
            return made
        head = executor.make(_fresh_head(decoder, form), key)
        if config.reward.init == "sft":
            return with_decoder(head, load_parent(context, "sft", decoder), form)
        return with_decoder(head, start_decoder(config, executor, decoder, key), form)

    held_out_loss = _losses(spec, form, None)[1]
    state, step, finish = task_parts(
        executor,
        reward_learning(config, stage, spec, key),
        lambda: adapt(config, stage, init(), key, form),
        key,
    )

    compared = any(better.any() for better, _ in (example.comparisons() for example in lists))

    def shown(out: Any) -> dict[str, float]:
        """Figures of pairs only where there are pairs: an accuracy of 0 would read as failure."""
        return {name: value for name, value in finish(out).items() if compared or name not in OF_PAIRS}

    def held_out_batch(params: Params, batch: RankBatch, axis_name: str | None) -> tuple[Any, Any]:
        totals = sum_over_devices(held_out_loss(params, batch), axis_name)
        members = reward.member_rewards(spec, form, params, batch)
        return totals, jnp.moveaxis(members, 0, -1)

    compiled = executor.compile(held_out_batch, ("state", "rows"), ("replicated", "rows"))

    evaluator = RewardEvaluator(context, spec, form.members, table, held_out, seen, compiled)

    def evaluate(state: TrainState, final: bool) -> Evaluation:
        found = evaluator.evaluate(state, final)
        cut = truncation_metrics(counts + held_out_counts) if final else {}
        return dataclasses.replace(found, metrics=found.metrics | cut)

    return Task(
        name=stage,
        total_steps=config.reward.steps,
        state=state,
        batches=rank_batches(
            lists,
            utility_index,
            config.reward.batch_size,
            list_sizes(context, lists, data.max_response, parts=config.reward.accumulate),
            config.seed,
            tokenizer.pad_id,
            config.reward.annotator_weights.to_dict(),
        ),
        step=step,
        finish=shown,
        flags=flags,
        evaluate=evaluate,
        log_every=config.log.every,
        eval_every=config.reward.eval_every,
        notes=(truncation_note(counts),),
        optimum=evaluator.optimum,
    )


@cache
def _fresh_head(decoder: DecoderSpec, form: EnsembleSpec) -> Callable[[jax.Array], Params]:
    """Makes the head of a reward model; one function for both stages, which is compiled once."""
    return lambda key: head_of(init_reward_model(decoder, key, ensemble=form))


def _losses(
    spec: reward.RewardSpec, form: EnsembleSpec, bootstrap: jax.Array | None
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Of one model or an ensemble: the training loss, the held-out one as (numerator, weight), what makes the
    optimizer, and the norm of gradients that is logged.
    """
    if form.members == 1:
        one = partial(reward.loss_sums, spec)

        def alone(params: Params, batch: RankBatch) -> tuple[Any, Any]:
            sums = one(params, batch)
            return sums.numerator, sums.weight

        return one, alone, make_optimizer, optax.tree.norm
    parts = partial(reward.member_rewards, spec, form), partial(reward.loss_of_rewards, spec)

    def mean(params: Params, batch: RankBatch) -> tuple[Any, Any]:
        return ensemble.loss_sums(*parts, None, params, batch).metrics["loss"]

    training = partial(ensemble.loss_sums, *parts, bootstrap)
    if form.kind == "heads":
        return training, mean, make_optimizer, optax.tree.norm
    return training, mean, lambda chosen: ensemble.per_member(make_optimizer(chosen)), ensemble.mean_norm
