"""The critique stage: a reward model that writes what it makes of a response before it scores it."""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from rlhf_jax.build.common import (
    evaluation_stream,
    flags,
    floats,
    list_sizes,
    task_parts,
    truncation_metrics,
    truncation_note,
)
from rlhf_jax.build.context import Context, init_scored, load_parent
from rlhf_jax.build.programs import learning
from rlhf_jax.build.specs import critique_spec, decoder_spec, optimizer_spec, utility_table
from rlhf_jax.data.critiques import critique_batches, critique_eval_batches, critique_examples
from rlhf_jax.data.examples import list_examples
from rlhf_jax.data.loader import rank_eval_batches, thin
from rlhf_jax.data.records import Record
from rlhf_jax.evaluation.critique import critique_metrics, critique_rows
from rlhf_jax.evaluation.policy import decode_responses
from rlhf_jax.evaluation.reward import evaluate_reward_model
from rlhf_jax.learners import critique
from rlhf_jax.learners.step import sum_over_devices
from rlhf_jax.loop import Evaluation, Task
from rlhf_jax.parallel import to_host
from rlhf_jax.types import CritiqueBatch, Params, RankBatch, TrainState


def critique_task(context: Context) -> Task:
    """Train on lists whose responses were criticised in words, from the SFT decoder or from scratch."""
    config, executor, tokenizer, data = context.config, context.executor, context.tokenizer, context.config.data
    section, key = config.critique, context.stage_key("critique")
    decoder = decoder_spec(config.model, tokenizer.vocab_size)
    spec = critique_spec(config, decoder, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    lists, counts = list_examples(context.data.lists, tokenizer, data.max_prompt, data.max_response)
    held_out, held_out_counts = list_examples(
        context.data.lists_validation, tokenizer, data.max_prompt, data.max_response
    )
    examples, cut = critique_examples(context.data.lists, lists, tokenizer, section.separator, section.max_tokens)
    held_out_examples, _ = critique_examples(
        context.data.lists_validation, held_out, tokenizer, section.separator, section.max_tokens
    )
    given = sum(ids is not None for example in examples for ids in example.critiques)
    contexts, held_out_contexts = ([one.context for one in own] for own in (examples, held_out_examples))
    longest = data.max_response + len(tokenizer.encode(section.separator))
    sizes, held_out_sizes = (list_sizes(context, own, longest, parts=None) for own in (contexts, held_out_contexts))
    utility_index = utility_table(config.reward, prompt_aware=True)[1]

    def init() -> Params:
        params: Params = executor.make(partial(init_scored, decoder), key)
        return {**params, "decoder": load_parent(context, "sft", decoder)} if section.init == "sft" else params

    state, step, finish = task_parts(
        executor,
        learning("critique", partial(critique.update, spec), optimizer_spec(section.optimizer, section.steps)),
        init,
        key,
    )

    def given_loss(params: Params, batch: CritiqueBatch, axis_name: str | None) -> tuple[Any]:
        return (sum_over_devices(critique.loss_sums(spec, params, batch).metrics["critique_loss"], axis_name),)

    def judged(params: Params, batch: RankBatch, key: jax.Array, axis_name: str | None) -> tuple[Any, Any]:
        found = critique.judge(spec, params, batch, key, samples=section.samples, axis_name=axis_name)
        losses, better = critique.ranking_sums(spec, found.rewards, batch, batch.response_mask)
        ranked = better.any(axis=(1, 2))
        totals = ((losses * ranked).sum(), ranked.sum())
        return sum_over_devices(totals, axis_name), (found.rewards, *found.first)

    compiled_loss = executor.compile(given_loss, ("state", "rows"), ("replicated",))
    compiled = executor.compile(judged, ("state", "rows", "replicated"), ("replicated", "rows"))

    def evaluate(state: TrainState, final: bool) -> Evaluation:
        numbers, parts = itertools.count(), []

        def loss_and_rewards(batch: RankBatch) -> tuple[float, float, np.ndarray]:
            key_of_batch = jax.random.fold_in(evaluation_stream(key), next(numbers))
            (loss, weight), found = to_host(compiled(state.params, executor.place(batch, "rows"), key_of_batch))
            parts.append(found)
            return float(loss), float(weight), found[0]

        found = evaluate_reward_model(
            loss_and_rewards,
            rank_eval_batches(held_out_contexts, utility_index, section.batch_size, held_out_sizes, tokenizer.pad_id),
            held_out,
            [[response.score for response in context.data.lists_validation[one.index].responses] for one in held_out],
            detailed=final,
        )
        totals = np.zeros(2)
        for batch in critique_eval_batches(
            held_out_examples,
            utility_index,
            section.batch_size,
            held_out_sizes,
            section.max_tokens,
            tokenizer.pad_id,
        ):
            totals += np.asarray(jax.device_get(compiled_loss(state.params, executor.place(batch, "rows"))[0]))
        metrics = found.metrics | {"critique_loss": float(totals[0] / max(totals[1], 1.0))}

        rewards, ids, mask = (np.concatenate(part)[: len(held_out)] for part in zip(*parts, strict=True))
        kept = [thin(example.ranks, data.list_size) for example in held_out]
        written = [decode_responses(tokenizer, ids[i, : len(own)], mask[i, : len(own)]) for i, own in enumerate(kept)]
        records = [
            _kept(context.data.lists_validation[example.index], own)
            for example, own in zip(held_out, kept, strict=True)
        ]
        real = mask.any(axis=2)
        metrics |= critique_metrics(
            written,
            [[response.critique for response in record.responses] for record in records],
            mask.sum(axis=2)[real],
            ((ids == tokenizer.eos_id) & mask).any(axis=2)[real],
        )
        if final:
            metrics |= truncation_metrics(counts + held_out_counts)
        samples = critique_rows(records, written, rewards, config.log.samples) if final else []
        return Evaluation(floats(metrics), samples, rewards=found.rows, warnings=found.warnings)

    return Task(
        name="critique",
        total_steps=section.steps,
        state=state,
        batches=critique_batches(
            examples,
            utility_index,
            section.batch_size,
            sizes,
            section.max_tokens,
            config.seed,
            tokenizer.pad_id,
            config.reward.annotator_weights.to_dict(),
        ),
        step=step,
        finish=finish,
        flags=flags,
        evaluate=evaluate,
        log_every=config.log.every,
        eval_every=section.eval_every,
        notes=(truncation_note(counts), f"{given} given critiques, of which {cut} cut (their end)"),
    )


def _kept(record: Record, places: Sequence[int]) -> Record:
    """The record with the responses at ``places`` alone, in this order."""
    return dataclasses.replace(record, responses=tuple(record.responses[place] for place in places))
