"""The stage of online preference learning."""

from typing import Any

import optax

from rlhf_jax.build.answers import Answerer
from rlhf_jax.build.common import flags, floats
from rlhf_jax.build.context import Context, load_parent, stage_decoder
from rlhf_jax.build.dpo import preference_spec
from rlhf_jax.build.lora import adapt, reference_of
from rlhf_jax.build.ppo_evaluation import read_texts
from rlhf_jax.build.programs import Learning, learning
from rlhf_jax.build.specs import optimizer_spec
from rlhf_jax.data.examples import prompt_rows
from rlhf_jax.data.loader import prompt_batches
from rlhf_jax.evaluation.policy import gold_metrics
from rlhf_jax.learners import online
from rlhf_jax.learners.step import init_state
from rlhf_jax.loop import Evaluation, Task
from rlhf_jax.models import DecoderSpec
from rlhf_jax.parallel import to_host
from rlhf_jax.types import PromptBatch, Rollout, TrainState


def online_learning(context: Context, decoder: DecoderSpec) -> Learning:
    """The update of an iteration, which takes (state, rollout)."""
    config, settings = context.config, context.config.online
    spec = online.OnlineSpec(
        preference=preference_spec(config.dpo, decoder, config.ppo.temperature),
        samples=settings.samples_per_prompt,
        method=settings.method,
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        reference_every=settings.reference_every,
        referenced=config.dpo.reference != "none",
    )
    updates = settings.iterations * settings.epochs * settings.minibatches

    def update(optimizer: optax.GradientTransformation, state: TrainState, rollout: Rollout, *, axis_name: Any) -> Any:
        return online.update(spec, optimizer, context.tokenizer.eos_id, state, rollout, axis_name=axis_name)

    return learning("online", update, optimizer_spec(settings.optimizer, updates))


def online_task(context: Context) -> Task:
    """Train the SFT policy on its own answers, as the reward model ranks them."""
    config, executor, tokenizer = context.config, context.executor, context.tokenizer
    settings, gold = config.online, context.data.gold
    decoder = stage_decoder(context, "sft")
    learner = online_learning(context, decoder)
    loaded, key = load_parent(context, "sft", decoder), context.stage_key("online")
    reference = reference_of(config, "online", loaded)
    extra: dict[str, Any] = {"reference": loaded} if settings.reference_every else {}
    state = executor.place(init_state(adapt(config, "online", loaded, key), learner.optimizer, key, extra), "state")
    answerer = Answerer(context, "online", reference)
    compiled_update = learner.update.compile(executor)

    def step(state: TrainState, batch: PromptBatch) -> tuple[TrainState, Any]:
        own = state.extra["reference"] if settings.reference_every else reference(state.params)
        rollout = answerer.sample(state.params, own, batch, online.step_keys(state)[0])
        state, metrics = compiled_update(state, rollout)
        return state, (metrics, rollout.response_ids, rollout.response_mask, rollout.read_mask, rollout.index)

    def finish(out: Any) -> dict[str, float]:
        metrics, ids, mask, read_mask, index = to_host(out)
        records = [context.data.prompts[i] for i in index]
        return floats(metrics) | gold_metrics(records, read_texts(context, ids, mask, read_mask), gold)

    return Task(
        name="online",
        total_steps=settings.iterations,
        state=state,
        batches=prompt_batches(
            prompt_rows(context.data.prompts, tokenizer, config.data.max_prompt)[0],
            settings.prompts_per_iteration,
            settings.samples_per_prompt,
            config.data.max_prompt,
            config.seed,
            tokenizer.pad_id,
        ),
        step=step,
        finish=finish,
        flags=flags,
        evaluate=lambda state, final: Evaluation(*answerer.evaluate(state.params, final)),
        log_every=1,
        eval_every=settings.eval_every,
    )
