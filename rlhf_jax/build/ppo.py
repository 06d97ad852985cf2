"""The PPO stage."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.build.common import by_rows, donated, evaluation_stream, floats, sample_rows
from rlhf_jax.build.context import Context, load_parent, stage_config, stage_decoder, stage_ensemble
from rlhf_jax.build.segments import load_judges, make_payer
from rlhf_jax.build.specs import optimizer_spec, ppo_spec, reward_bounded, rollout_spec
from rlhf_jax.data.examples import prompt_rows
from rlhf_jax.data.loader import prompt_batches, prompt_eval_batches
from rlhf_jax.evaluation.policy import decode_responses, diversity_metrics, gold_metrics
from rlhf_jax.generation import sample_rollout
from rlhf_jax.learners import ppo
from rlhf_jax.learners.step import init_state
from rlhf_jax.loop import Evaluation, Task
from rlhf_jax.models import ONE_MODEL, representative, value_from_reward
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, PromptBatch, Rollout, TrainState

Answer = Callable[[Params, dict[str, Any], PromptBatch, jax.Array], Rollout]


def ppo_task(context: Context) -> Task:
    """Optimise the SFT policy against the reward model, both taken from their checkpoints."""
    config, executor, tokenizer = context.config, context.executor, context.tokenizer
    settings, gold = config.ppo, context.data.gold
    episodes = settings.prompts_per_iteration * settings.samples_per_prompt
    judges = load_judges(context)
    whole = bool(settings.dense.sequence)  # whether a reward model of whole responses is followed
    policy_decoder = stage_decoder(context, "sft")
    reward_decoder = stage_decoder(context, "reward") if whole else judges[0].decoder
    bounded = whole and reward_bounded(stage_config(config, "reward").reward)
    form = stage_ensemble(config, "reward") if whole else ONE_MODEL
    rolling = rollout_spec(
        config,
        policy_decoder,
        reward_decoder,
        bounded=bounded,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        ensemble=form,
    )
    spec = ppo_spec(settings, policy_decoder, reward_decoder)
    reference = load_parent(context, "sft", policy_decoder)
    reward_model = load_parent(context, "reward", reward_decoder) if whole else judges[0].silent_reward_model()
    updates = settings.iterations * settings.epochs * settings.minibatches
    optimizer = ppo.make_ppo_optimizer(
        optimizer_spec(settings.optimizer, updates),
        optimizer_spec(settings.optimizer, updates, settings.value_learning_rate),
    )
    key = context.stage_key("ppo")

    def roll(
        policy: Params,
        value: Params,
        reference: Params,
        reward: Params,
        prompts: PromptBatch,
        rest: Any,
        axis_name: Any,
    ) -> tuple[Rollout]:
        key, extra = rest
        return (
            sample_rollout(
                rolling,
                policy,
                value,
                reference,
                reward,
                prompts,
                key,
                reward_bias=extra["reward_bias"],
                reward_gain=extra["reward_gain"],
            ),
        )

    compiled_roll = executor.compile(roll, ("state",) * 4 + ("rows", "replicated"), ("rows",))
    compiled_update = executor.compile(
        partial(ppo.update, spec, optimizer, tokenizer.eos_id), ("state", "rows"), ("state", "replicated"), donated()
    )

    pay = make_payer(context, judges)

    def sample(params: Params, extra: dict[str, Any], prompts: PromptBatch, key: jax.Array) -> Rollout:
        networks = params["policy"], params["value"], reference, reward_model
        rollout = by_rows(
            lambda part: compiled_roll(*networks, executor.place(part, "rows"), (key, extra))[0],
            prompts,
            settings.rollout_rows,
        )
        return executor.place(rollout, "rows") if settings.rollout_rows else rollout

    def answer(params: Params, extra: dict[str, Any], prompts: PromptBatch, key: jax.Array) -> Rollout:
        return pay(sample(params, extra, prompts, key))

    prompts = prompt_rows(context.data.prompts, tokenizer, config.data.max_prompt)[0]
    held_out = prompt_rows(context.data.prompts_validation, tokenizer, config.data.max_prompt)[0]

    def held_out_answers(params: Params, extra: dict[str, Any], answer: Answer = answer) -> Rollout:
        """All held-out prompts answered once, as one host-side rollout in their order."""
        parts = []
        stream = evaluation_stream(key)
        for number, batch in enumerate(
            prompt_eval_batches(held_out, episodes, config.data.max_prompt, tokenizer.pad_id)
        ):
            found = to_host(answer(params, extra, batch, jax.random.fold_in(stream, number)))
            real = np.asarray(batch.index) >= 0
            parts.append(jax.tree.map(lambda leaf, kept=real: leaf[kept], found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    start = {"policy": reference, "value": value_from_reward(representative(reward_model, form), bounded=bounded)}
    extra = {
        "kl_coefficient": jnp.float32(settings.kl.coefficient),
        "reward_bias": jnp.float32(0.0),
        "reward_gain": jnp.float32(settings.dense.sequence),
    }
    if settings.normalize_reward:
        scores = held_out_answers(start, extra, sample).raw_scores
        gain = settings.dense.sequence / max(float(scores.std()), 1e-6)
        extra |= {"reward_gain": jnp.float32(gain), "reward_bias": jnp.float32(-gain * float(scores.mean()))}
    state = executor.place(init_state(start, optimizer, key, extra), "state")

    def step(state: TrainState, batch: PromptBatch) -> tuple[TrainState, Any]:
        rollout = answer(state.params, state.extra, batch, ppo.step_keys(state)[0])
        state, metrics = compiled_update(state, rollout)
        return state, (metrics, rollout.response_ids, rollout.response_mask, rollout.index)

    def finish(out: Any) -> dict[str, float]:
        metrics, ids, mask, index = to_host(out)
        records = [context.data.prompts[i] for i in index]
        return floats(metrics) | gold_metrics(records, decode_responses(tokenizer, ids, mask), gold)

    def evaluate(state: TrainState, final: bool) -> Evaluation:
        found = held_out_answers(state.params, state.extra)
        texts = decode_responses(tokenizer, found.response_ids, found.response_mask)
        kl = np.sum(np.where(found.response_mask, found.logprobs - found.ref_logprobs, 0.0), axis=1)
        tokens = found.response_mask.sum()
        metrics = {
            "reward.mean": float(found.raw_scores.mean()),
            "kl": float(kl.mean()),
            "length": float(tokens / len(texts)),
            "entropy": float(-np.sum(found.logprobs, where=found.response_mask) / tokens),
        }
        if found.spread is not None:
            metrics["reward.spread"] = float(found.spread.mean())
        metrics |= diversity_metrics(texts) | gold_metrics(context.data.prompts_validation, texts, gold)
        before = None
        if final:
            first = held_out_answers({**state.params, "policy": reference}, state.extra)
            before = decode_responses(tokenizer, first.response_ids, first.response_mask)
            metrics["reward.mean.before"] = float(first.raw_scores.mean())
        rows = sample_rows(
            context.data.prompts_validation,
            texts,
            gold,
            max(config.log.samples, 10) if final else config.log.samples,
            found.raw_scores,
            before,
        )
        return Evaluation(metrics, rows)

    return Task(
        name="ppo",
        total_steps=settings.iterations,
        state=state,
        batches=prompt_batches(
            prompts,
            settings.prompts_per_iteration,
            settings.samples_per_prompt,
            config.data.max_prompt,
            config.seed,
            tokenizer.pad_id,
        ),
        step=step,
        finish=finish,
        evaluate=evaluate,
        log_every=1,
        eval_every=settings.eval_every,
    )
