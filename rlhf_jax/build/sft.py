"""The supervised fine-tuning stage."""

from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rlhf_jax.build.common import (
    by_rows,
    evaluation_stream,
    flags,
    floats,
    sample_rows,
    samples_shown,
    task_parts,
    truncation_metrics,
    truncation_note,
)
from rlhf_jax.build.context import Context, stage_decoder
from rlhf_jax.build.lora import adapt
from rlhf_jax.build.pretrained import start_decoder
from rlhf_jax.build.programs import Learning, Program, learning
from rlhf_jax.build.specs import optimizer_spec, rollout_spec, stop_token
from rlhf_jax.data.examples import prompt_rows, sft_examples
from rlhf_jax.data.loader import prompt_eval_batches, sft_batches, sft_eval_batches
from rlhf_jax.data.packing import pack_examples, padding_share
from rlhf_jax.evaluation.policy import diversity_metrics, gold_metrics, sample_completions
from rlhf_jax.generation import complete
from rlhf_jax.learners import sft
from rlhf_jax.learners.step import sum_over_devices, train_step
from rlhf_jax.loop import Evaluation, Task
from rlhf_jax.models import DecoderSpec
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, PromptBatch, TokenBatch, TrainState


def sft_learning(config: ConfigDict, decoder: DecoderSpec) -> Learning:
    """The update of fine-tuning."""
    step = partial(train_step, partial(sft.loss_sums, decoder), microbatches=config.sft.accumulate)
    return learning("sft", step, optimizer_spec(config.sft.optimizer, config.sft.steps))


def sft_sampling(context: Context, decoder: DecoderSpec) -> Program:
    """Answers to held-out prompts: (parameters, prompts, key) to ids and mask."""
    tokenizer = context.tokenizer
    sampler = rollout_spec(
        context.config,
        decoder,
        decoder,
        bounded=False,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        stop_id=stop_token(context.config, tokenizer),
    )

    def answer(params: Params, prompts: PromptBatch, key: jax.Array, axis_name: str | None) -> tuple[Any]:
        return (tuple(complete(sampler, params, prompts, key))[:2],)

    return Program("sft.sample", answer, ("state", "rows", "replicated"), ("rows",), inference=True)


def sft_task(context: Context) -> Task:
    """Fine-tune a fresh decoder, or that of ``config.model.path``, on the demonstrations."""
    config, executor, tokenizer = context.config, context.executor, context.tokenizer
    data, lengths = config.data, (config.data.max_prompt, config.data.max_response)
    batch_size = config.sft.batch_size
    spec = stage_decoder(context, "sft")
    examples, counts = sft_examples(context.data.sft, tokenizer, *lengths)
    held_out, held_out_counts = sft_examples(context.data.sft_validation, tokenizer, *lengths)
    rows = pack_examples(examples, config.sft.row_length, tokenizer.pad_id)
    held_out_rows = pack_examples(held_out, config.sft.row_length, tokenizer.pad_id)
    key = context.stage_key("sft")
    state, step, finish = task_parts(
        executor,
        sft_learning(config, spec),
        lambda: adapt(config, "sft", start_decoder(config, executor, spec, key), key),
        key,
    )

    def held_out_loss(params: Params, batch: TokenBatch, axis_name: str | None) -> tuple[Any]:
        sums = sft.loss_sums(spec, params, batch)
        return (sum_over_devices((sums.numerator, sums.weight), axis_name),)

    evaluate_batch = executor.compile(held_out_loss, ("state", "rows"), ("replicated",))
    answer = sft_sampling(context, spec).compile(executor)

    def answers(state: TrainState) -> tuple[dict[str, float], list[dict[str, Any]]]:
        prompts = context.data.prompts_validation
        # As many rows as a rollout has: what is sampled here is what PPO will start from.
        size = config.ppo.prompts_per_iteration * config.ppo.samples_per_prompt
        batches = prompt_eval_batches(
            prompt_rows(prompts, tokenizer, data.max_prompt)[0], size, data.max_prompt, tokenizer.pad_id
        )

        def one(batch: PromptBatch, number: int) -> tuple[np.ndarray, np.ndarray]:
            own = jax.random.fold_in(evaluation_stream(key), number)
            found = by_rows(
                lambda part: answer(state.params, executor.place(part, "rows"), own)[0], batch, config.ppo.rollout_rows
            )
            return to_host(found)

        sampled = sample_completions(one, batches, tokenizer)
        metrics = gold_metrics(prompts, sampled.texts, context.data.gold) | diversity_metrics(sampled.texts)
        metrics["length"] = float(sampled.lengths.mean())
        count = samples_shown(config, final=False)
        return metrics, sample_rows(prompts, sampled.texts, context.data.gold, count)

    def evaluate(state: TrainState, final: bool) -> Evaluation:
        totals = np.zeros(2)
        for batch in sft_eval_batches(held_out_rows, batch_size):
            totals += np.asarray(jax.device_get(evaluate_batch(state.params, executor.place(batch, "rows"))[0]))
        metrics = {"loss": float(totals[0] / max(totals[1], 1.0))}
        if not final:
            return Evaluation(metrics)
        found, samples = answers(state)
        return Evaluation(floats(metrics | found | truncation_metrics(counts + held_out_counts)), samples)

    return Task(
        name="sft",
        total_steps=config.sft.steps,
        state=state,
        batches=sft_batches(rows, batch_size, config.seed),
        step=step,
        finish=finish,
        flags=flags,
        evaluate=evaluate,
        log_every=config.log.every,
        eval_every=config.sft.eval_every,
        notes=(
            truncation_note(counts),
            f"{len(examples)} demonstrations packed into {len(rows.ids)} rows, {padding_share(rows):.1%} padding",
        ),
    )
