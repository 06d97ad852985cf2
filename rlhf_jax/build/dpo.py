"""The stage of direct preference optimisation."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rlhf_jax.build.answers import Answerer
from rlhf_jax.build.common import flags, list_sizes, task_parts, truncation_metrics, truncation_note
from rlhf_jax.build.context import Context, load_parent, stage_decoder
from rlhf_jax.build.divergences import divergence
from rlhf_jax.build.lora import adapt, reference_of
from rlhf_jax.build.programs import Learning, learning
from rlhf_jax.build.reference import make_reader, reference_logprobs
from rlhf_jax.build.specs import optimizer_spec
from rlhf_jax.data.examples import ListExample, list_examples
from rlhf_jax.data.preference import PreferenceShape, preference_batches, preference_eval_batches
from rlhf_jax.learners import preference
from rlhf_jax.learners.step import sum_over_devices
from rlhf_jax.loop import Evaluation, Task
from rlhf_jax.models import DecoderSpec
from rlhf_jax.types import Params, PreferenceBatch, TrainState

OF_PAIRS = ("pair_accuracy", "gap_mean")
OF_REFERENCE = ("log_ratio",)


def preference_spec(section: ConfigDict, decoder: DecoderSpec, temperature: float = 1.0) -> preference.PreferenceSpec:
    """The loss of a ``config.dpo``."""
    return preference.PreferenceSpec(
        decoder=decoder,
        loss=section.loss,
        beta=section.beta,
        label_smoothing=section.label_smoothing,
        divergence=divergence(section.divergence, section.alpha, "dpo.divergence", direct=True)
        if section.loss == "f_dpo"
        else None,
        gamma=section.gamma,
        nll=section.nll,
        lambda_=section.lambda_,
        desirable=section.desirable,
        undesirable=section.undesirable,
        clip=section.clip,
        margin=section.margin,
        length_normalized=section.length_normalized,
        lists=section.lists,
        temperature=temperature,
    )


def dpo_learning(section: ConfigDict, spec: preference.PreferenceSpec) -> Learning:
    """The update of a ``config.dpo``."""
    step = partial(preference.update, spec, microbatches=section.accumulate)
    return learning("dpo", step, optimizer_spec(section.optimizer, section.steps))


def dpo_task(context: Context) -> Task:
    """Train the SFT policy on the lists; the reference is the policy that it starts from."""
    config, executor, tokenizer = context.config, context.executor, context.tokenizer
    data, section = config.data, config.dpo
    decoder = stage_decoder(context, "sft")
    spec = preference_spec(section, decoder)
    lists, counts = list_examples(context.data.lists, tokenizer, data.max_prompt, data.max_response)
    held_out, held_out_counts = list_examples(
        context.data.lists_validation, tokenizer, data.max_prompt, data.max_response
    )

    def shape(lists: Sequence[ListExample], parts: int = 1) -> PreferenceShape:
        sizes = list_sizes(context, lists, data.max_response, parts=parts)
        return PreferenceShape(sizes, tokenizer.pad_id, mismatched=spec.mismatched)

    loaded, key = load_parent(context, "sft", decoder), context.stage_key("dpo")
    start, reader = adapt(config, "dpo", loaded, key), make_reader(context, spec)
    reference = reference_of(config, "dpo", loaded)
    known, held_out_known = (
        reference_logprobs(context, reader, reference(start), examples, shape(examples), section.batch_size, name)
        if examples and section.reference == "precomputed"
        else None
        for examples, name in ((lists, "dpo"), (held_out, "dpo_held_out"))
    )
    weights = config.reward.annotator_weights.to_dict()
    state, step, finish = task_parts(
        executor,
        dpo_learning(section, spec),
        lambda: start,
        key,
    )

    def with_reference(policy: Params, batch: PreferenceBatch) -> PreferenceBatch:
        if section.reference != "on_the_fly":
            return batch
        return dataclasses.replace(batch, ref_logprobs=reader(reference(policy), batch))

    compared = any(better.any() for better, _ in (example.comparisons() for example in lists))
    hidden = (() if compared else OF_PAIRS) + (OF_REFERENCE if section.reference == "none" else ())

    def shown(metrics: dict[str, float]) -> dict[str, float]:
        """Figures of pairs where there are pairs, of the reference where there is one."""
        return {name: value for name, value in metrics.items() if name not in hidden}

    def held_out_sums(params: Params, batch: PreferenceBatch, axis_name: str | None) -> tuple[Any]:
        sums = preference.loss_sums(spec, params, batch, axis_name=axis_name)
        return (sum_over_devices({"loss": (sums.numerator, sums.weight), **sums.metrics}, axis_name),)

    compiled = executor.compile(held_out_sums, ("state", "rows"), ("replicated",))
    answerer = Answerer(context, "dpo", reference)

    def evaluate(state: TrainState, final: bool) -> Evaluation:
        parts = [
            jax.device_get(compiled(state.params, executor.place(with_reference(state.params, batch), "rows"))[0])
            for batch in preference_eval_batches(held_out, shape(held_out), section.batch_size, held_out_known, weights)
        ]
        sums = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0, dtype=np.float64), *parts)
        metrics = shown({name: float(total / weight) for name, (total, weight) in sums.items() if weight})
        answers, samples = answerer.evaluate(state.params, final)
        cut = truncation_metrics(counts + held_out_counts) if final else {}
        return Evaluation(metrics | answers | cut, samples)

    return Task(
        name="dpo",
        total_steps=section.steps,
        state=state,
        batches=preference_batches(
            lists, shape(lists, section.accumulate), section.batch_size, config.seed, known, weights
        ),
        step=lambda state, batch: step(state, with_reference(state.params, batch)),
        finish=lambda out: shown(finish(out)),
        flags=flags,
        evaluate=evaluate,
        log_every=config.log.every,
        eval_every=section.eval_every,
        notes=(truncation_note(counts), f"{len(lists)} lists, of at most {data.list_size} responses"),
    )
