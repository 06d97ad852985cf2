"""The stage of the fine-grained reward model, and its rewards for PPO."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from rlhf_jax.build.common import flags, task_parts, truncation_metrics, truncation_note
from rlhf_jax.build.context import Context, checked_run, load_parent, restore
from rlhf_jax.build.programs import learning
from rlhf_jax.build.specs import decoder_spec, optimizer_spec
from rlhf_jax.config import OWN, did_you_mean, kind_and_level
from rlhf_jax.data.loader import segment_batches, segment_eval_batches
from rlhf_jax.data.segments import Aspect, SegmentExample, ends_of, segment_examples
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.segments import evaluate_segments
from rlhf_jax.learners import segments
from rlhf_jax.learners.step import sum_over_devices, train_step
from rlhf_jax.loop import Evaluation, Task
from rlhf_jax.models import DecoderSpec, apply_token_heads, init_decoder, init_token_heads
from rlhf_jax.objectives.segments import dense_rewards, paid_at_end, segment_values
from rlhf_jax.parallel import to_host
from rlhf_jax.types import Params, Rollout, SegmentBatch, TrainState


def aspects_of(section: ConfigDict) -> tuple[Aspect, ...]:
    """What ``config.segments.kinds`` names."""
    return tuple(Aspect(*kind_and_level(text)) for text in section.kinds)


def init_judge(spec: DecoderSpec, count: int, key: jax.Array) -> Params:
    """A fresh decoder with ``count`` heads."""
    key_decoder, key_heads = jax.random.split(key)
    return {"decoder": init_decoder(spec, key_decoder), "heads": init_token_heads(spec, key_heads, count)}


def segments_task(context: Context) -> Task:
    """Train a fine-grained reward model on the marked responses, from the SFT decoder or from scratch."""
    config, executor, tokenizer = context.config, context.executor, context.tokenizer
    data, section = config.data, config.segments
    aspects = aspects_of(section)
    names = tuple(aspect.kind or "all" for aspect in aspects)
    spec = segments.SegmentSpec(decoder_spec(config.model, tokenizer.vocab_size), names)
    make = partial(
        segment_examples,
        tokenizer=tokenizer,
        max_prompt=data.max_prompt,
        max_response=data.max_response,
        aspects=aspects,
        least=section.least_words,
        unmarked=section.unmarked == "good",
    )
    examples, counts = make(context.data.lists)
    held_out, held_out_counts = make(context.data.lists_validation)
    check_marks(context, aspects, examples)
    length = data.max_prompt + data.max_response
    key = context.stage_key("segments")

    def init() -> Params:
        params: Params = executor.make(partial(init_judge, spec.decoder, len(aspects)), key)
        from_sft = section.init == "sft"
        return {**params, "decoder": load_parent(context, "sft", spec.decoder)} if from_sft else params

    update = partial(train_step, partial(segments.loss_sums, spec))
    learner = learning("segments", update, optimizer_spec(section.optimizer, section.steps))
    state, step, finish = task_parts(executor, learner, init, key)

    def held_out_batch(params: Params, batch: SegmentBatch, axis_name: str | None) -> tuple[Any, Any]:
        sums = segments.loss_sums(spec, params, batch)
        totals = sum_over_devices((sums.numerator, sums.weight), axis_name)
        return totals, segments.token_logits(spec, params, batch)

    compiled = executor.compile(held_out_batch, ("state", "rows"), ("replicated", "rows"))

    def evaluate(state: TrainState, final: bool) -> Evaluation:
        def loss_and_logits(batch: SegmentBatch) -> tuple[float, float, np.ndarray]:
            (loss, weight), logits = to_host(compiled(state.params, executor.place(batch, "rows")))
            return float(loss), float(weight), logits

        batches = segment_eval_batches(held_out, section.batch_size, length, tokenizer.pad_id)
        metrics = evaluate_segments(loss_and_logits, batches, names)
        return Evaluation(metrics | (truncation_metrics(counts + held_out_counts) if final else {}))

    return Task(
        name="segments",
        total_steps=section.steps,
        state=state,
        batches=segment_batches(examples, section.batch_size, length, config.seed, tokenizer.pad_id),
        step=step,
        finish=finish,
        flags=flags,
        evaluate=evaluate,
        log_every=config.log.every,
        eval_every=section.eval_every,
        notes=(truncation_note(counts), f"{len(examples)} responses, judged in parts: {', '.join(section.kinds)}"),
    )


def check_marks(context: Context, aspects: tuple[Aspect, ...], examples: list[SegmentExample]) -> None:
    """See that each aspect has good parts and defective ones to learn from.

    Raises:
      UserError: one has not, or there is no response; names the kinds of spans that there are.
    """
    kinds = {span.kind for record in context.data.lists for response in record.responses for span in response.spans} - {
        ""
    }
    labels = np.concatenate([example.labels for example in examples]) if examples else np.zeros((0, len(aspects)))
    for column, aspect in enumerate(aspects):
        own = labels[:, column]
        if not (np.any(own < 0.5) and np.any(own >= 0.5)):
            have = f"the data mark {', '.join(sorted(kinds))}" if kinds else "the data mark no kind"
            hint = did_you_mean(aspect.kind, kinds) if aspect.kind not in kinds else ""
            raise UserError(
                f"config.segments.kinds: {aspect.kind}:{aspect.level} has no good or no defective part to learn from; "
                f"{have}{hint}"
            )


# -------------------------------------------------------------------------------- rewards of PPO


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained fine-grained reward model, and what its rewards weigh."""

    decoder: DecoderSpec
    params: Params
    aspects: tuple[Aspect, ...]
    least_words: int
    weights: tuple[float, ...]

    def silent_reward_model(self) -> Params:
        """A reward model that says 0 of everything, for a policy that follows fine-grained rewards alone."""
        return {"decoder": self.params["decoder"], "head": {"kernel": jnp.zeros((self.decoder.width,))}}


def load_judges(context: Context) -> tuple[Judge, ...]:
    """The models of ``config.ppo.dense``.

    Raises:
      UserError: a run has no such model or another tokenizer, or a weight is of a kind that none judges.
    """
    section = context.config.ppo.dense
    weights = dict(kind_and_level(text) for text in section.weights)
    judges = []
    for name in section.models:
        run = context.workdir if name == OWN else Path(name)
        config = context.config if name == OWN else checked_run(context, run, "config.ppo.dense.models")
        decoder = decoder_spec(config.model, context.tokenizer.vocab_size)
        aspects = aspects_of(config.segments)
        params = restore(
            context,
            run / "checkpoints" / "segments",
            "config.ppo.dense.models",
            partial(init_judge, decoder, len(aspects)),
        )
        own = tuple(float(weights.get(aspect.kind, 1.0)) for aspect in aspects)
        judges.append(Judge(decoder, params, aspects, config.segments.least_words, own))
    known = {aspect.kind for judge in judges for aspect in judge.aspects}
    for kind in weights:
        if kind not in known:
            raise UserError(f"config.ppo.dense.weights: no model judges {kind!r}{did_you_mean(kind, known)}")
    return tuple(judges)


def make_payer(context: Context, judges: tuple[Judge, ...]) -> Callable[[Rollout], Rollout]:
    """The function that adds the rewards of all judges to a rollout; where each segment ends is found on the host."""
    section, executor, tokenizer = context.config.ppo.dense, context.executor, context.tokenizer

    def pay(judge: Judge, first: bool, params: Params, rollout: Rollout, ends: Array, axis_name: Any) -> tuple[Rollout]:
        ids = jnp.concatenate([rollout.prompt_ids, rollout.response_ids], axis=1)
        mask = jnp.concatenate([rollout.prompt_mask, rollout.response_mask], axis=1)
        logits = apply_token_heads(judge.decoder, params, ids, mask)[:, -rollout.response_ids.shape[1] :]
        values = segment_values(logits, section.value)
        weights = jnp.asarray(judge.weights, values.dtype)
        dense = jax.vmap(lambda v, e: dense_rewards(values=v, ends=e, weights=weights))(values, ends)
        if section.at == "end":
            dense = jax.vmap(paid_at_end)(dense, rollout.response_mask)
        before = section.sequence * rollout.raw_scores if first else rollout.raw_scores
        total = dense if rollout.dense is None else rollout.dense + dense
        parts = {"own": before} if first and section.sequence else dict(rollout.parts or {})
        kinds = jnp.sum(jnp.where(ends > 0, ends * values, 0.0), axis=1) * weights
        for column, aspect in enumerate(judge.aspects):
            name = aspect.kind or "all"
            parts[name] = parts.get(name, 0.0) + kinds[:, column]
        paid = jnp.sum(dense, axis=1)
        return (dataclasses.replace(rollout, dense=total, raw_scores=before + paid, parts=parts),)

    compiled = [
        executor.compile(partial(pay, judge, place == 0), ("state", "rows", "rows"), ("rows",))
        for place, judge in enumerate(judges)
    ]

    def payer(rollout: Rollout) -> Rollout:
        read = rollout.response_mask if rollout.read_mask is None else rollout.read_mask
        ids, mask = to_host((rollout.response_ids, read))
        for judge, function in zip(judges, compiled, strict=True):
            ends = ends_of(ids, mask, tokenizer, judge.aspects, judge.least_words)
            rollout = function(judge.params, rollout, executor.place(ends, "rows"))[0]
        return rollout

    return payer
