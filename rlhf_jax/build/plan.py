"""What a run would do, without doing it: parameters, memory and steps of each stage."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from rlhf_jax.build.context import check_parents, parents_tokenizer, stage_ensemble, stage_model
from rlhf_jax.build.data import Data, fresh_tokenizer, load_data
from rlhf_jax.build.feedback import check_feedback, check_judgements
from rlhf_jax.build.lora import adapted, check_base, lora_spec
from rlhf_jax.build.sizes import notes_on
from rlhf_jax.build.specs import check_divergence, check_utilities, decoder_spec, optimizer_spec, utility_notes
from rlhf_jax.learners.ensemble import per_member
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.models import (
    ONE_MODEL,
    DecoderSpec,
    EnsembleSpec,
    head_of,
    init_decoder,
    init_reward_model,
    init_token_heads,
    silent_value_head,
    trained,
    value_from_reward,
    without_adapters,
)
from rlhf_jax.objectives.likelihood import tokens_at_once
from rlhf_jax.types import Params

HEAD_ROWS = 200
BYTES_PER_PARAMETER = 4  # of a model that a stage does not make itself: float32


def count_parameters(spec: DecoderSpec) -> int:
    """Parameters of a decoder, without making them."""
    shapes = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    return _size(shapes)


def _size(shapes: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


class Held(NamedTuple):
    """What a stage holds of the models that it makes: how many parameters train, how many do not, and the bytes of
    these, of gradients and of the optimizer's state; ``saved`` are those that are in a checkpoint, gradients left out.
    """

    trained: int
    frozen: int
    size: int
    saved: int


def _held(
    config: ConfigDict,
    stage: str,
    init: Callable[[jax.Array], Params],
    form: EnsembleSpec = ONE_MODEL,
    part: Callable[[Params], Params] = trained,
) -> Held:
    """Of a stage that starts from ``init``."""
    key = jax.random.key(0)
    whole, shapes = (jax.eval_shape(make, key) for make in (init, adapted(config, stage, init, form)))
    moving = part(shapes)
    optimizer = make_optimizer(optimizer_spec(config[stage.removesuffix("_common")].optimizer, 1))
    if form.members > 1 and form.kind == "models":
        optimizer = per_member(optimizer)
    state = jax.eval_shape(optimizer.init, moving)
    frozen = _size(whole) - _size(without_adapters(moving))
    saved = _bytes(shapes) + _bytes(state)
    return Held(_size(moving), frozen, saved + _bytes(moving), saved)


def saved_bytes(config: ConfigDict, vocab_size: int) -> dict[str, int]:
    """Bytes of one checkpoint of each stage."""
    spec = decoder_spec(config.model, vocab_size)
    return {stage: _held_by(config, spec, stage).saved for stage in config.stages}


def _held_by(config: ConfigDict, spec: DecoderSpec, stage: str) -> Held:
    if stage in ("sft", "dpo", "online"):
        held = _held(config, stage, partial(init_decoder, spec))
        if stage == "online" and config.online.reference_every:  # the state has a reference of its own
            count = count_parameters(spec)
            size = count * BYTES_PER_PARAMETER
            held = Held(held.trained, held.frozen + count, held.size + size, held.saved + size)
        return held
    if stage == "segments":
        return _held(config, stage, partial(_with_heads, spec, len(config.segments.kinds)))
    if stage == "ppo":
        return _held(config, stage, partial(_actors, config, spec, _reward_of(config, spec)))
    if stage == "critique":
        return _held(config, stage, partial(init_reward_model, spec))
    own = stage_ensemble(config, stage)
    part = head_of if config.reward.train == "head" else trained
    return _held(config, stage, partial(init_reward_model, spec, ensemble=own), own, part)


def _reward_of(config: ConfigDict, policy: DecoderSpec) -> DecoderSpec:
    """The decoder of the run's reward model."""
    return decoder_spec(stage_model(config, "reward"), policy.vocab_size)


def _bytes(shapes: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def activation_bytes(spec: DecoderSpec, rows: int, length: int, logits_length: int, *, again: bool = False) -> int:
    """An estimate of what one update keeps for its backward pass: per token and layer the block's inputs and outputs,
    per head the attention weights, and twice the logits that exist at once, which the pass may need made ``again``.
    """
    per_token = spec.depth * (8 * spec.width + 3 * spec.mlp_width + spec.heads * length)
    logits = rows * min(logits_length, tokens_at_once(rows, spec.vocab_size, logits_length * again)) * spec.vocab_size
    return spec.compute_dtype.itemsize * (rows * length * per_token + 2 * logits)


def describe_plan(config: ConfigDict, workdir: Path | None) -> str:
    """The plan in words, after having read the head of the data.

    Raises:
      UserError: the head of the data holds a bad row, the tokenizer is not to be had, or a parent has no checkpoints.
    """
    check_utilities(config)
    check_divergence(config)
    check_base(config)
    check_parents(config)
    # Of a chat template it says which rows can be read; otherwise it may be learned from them.
    tokenizer = parents_tokenizer(config) or fresh_tokenizer(config, None) if config.data.chat else None
    data = load_data(config, limit=HEAD_ROWS, tokenizer=tokenizer)
    if data.whole:  # what the head of a file lacks may come later
        check_feedback(config, data.lists)
        check_judgements(config, data.lists)
    spec = decoder_spec(config.model, tokenizer.vocab_size if tokenizer else _vocabulary(config, data))
    count = count_parameters(spec)
    lines = [f"model: {count:,} parameters, {spec.depth} layers of width {spec.width}, vocabulary {spec.vocab_size:,}"]
    lines += [f"  {note}" for note in notes_on(spec, config.parallel)]
    lines.append(f"data: {config.data.path or 'the embedded world'}, head read without fault")
    lines += [f"  {note}" for note in data.notes]
    lines += utility_notes(config)
    lines += [f"stage {stage}: {text}" for stage, text in _stages(config, spec, count)]
    lines.append("memory: estimates, of all devices together; rlhf-jax plan compiles each program and measures it")
    lines.append(f"run directory: {workdir or '(none named)'}")
    return "\n".join(lines)


def _vocabulary(config: ConfigDict, data: Data) -> int:
    tokenizer = parents_tokenizer(config)
    if tokenizer is None and config.tokenizer.kind == "bpe":
        return config.tokenizer.vocab_size  # the head is too short to learn from; all but tiny files reach it
    return (tokenizer or fresh_tokenizer(config, data)).vocab_size


def _stages(config: ConfigDict, spec: DecoderSpec, count: int) -> Iterator[tuple[str, str]]:
    data = config.data
    length = data.max_prompt + data.max_response

    def text(steps: str, held: Held, kept: int, rows: int, row_length: int, logits_length: int) -> str:
        activations = activation_bytes(spec, rows, row_length, logits_length, again=stage != "sft")
        size = held.size + kept * BYTES_PER_PARAMETER + activations
        of = f"{held.trained:,} trained and {held.frozen + kept:,} frozen parameters"
        return f"{steps}, {of}, about {size / 2**20:,.0f} MiB"

    for stage in config.stages:
        held = _held_by(config, spec, stage)
        if stage == "sft":
            rows, row_length = config.sft.batch_size, config.sft.row_length
            steps = f"{config.sft.steps} steps of {rows} packed rows"
            yield stage, text(steps, held, 0, rows // config.sft.accumulate, row_length, row_length)
        elif stage == "segments":
            rows = config.segments.batch_size
            steps = f"{config.segments.steps} steps of {rows} responses"
            yield stage, text(steps, held, 0, rows, length, 0)
        elif stage == "ppo":
            ppo = config.ppo
            episodes = ppo.prompts_per_iteration * ppo.samples_per_prompt
            steps = f"{ppo.iterations} iterations of {episodes} episodes, {ppo.epochs * ppo.minibatches} updates each"
            rows = episodes // ppo.minibatches // ppo.accumulate
            reward = _reward_of(config, spec)
            kept = _kept_by_ppo(config, count, count_parameters(reward), reward.width)
            yield stage, text(steps, held, kept, rows, length, data.max_response)
        elif stage == "dpo":
            lists, columns = config.dpo.batch_size, data.list_size + (config.dpo.loss == "kto")
            steps = f"{config.dpo.steps} steps of {lists} lists of {data.list_size}, loss {config.dpo.loss}"
            # The reference answers the held-out prompts too, whatever the loss makes of it.
            kept = (0 if lora_spec(config, stage) else count) + _judge(config, spec)
            rows = lists // config.dpo.accumulate * columns
            yield stage, text(steps, held, kept, rows, length, length)
        elif stage == "online":
            online = config.online
            prompts, answers = online.prompts_per_iteration, online.samples_per_prompt
            loss = config.dpo.loss if online.method == "preference" else online.method
            steps = f"{online.iterations} iterations of {prompts} lists of {answers} answers, loss {loss}"
            kept = (0 if lora_spec(config, stage) else count) + _judge(config, spec)
            rows = prompts // online.minibatches * (answers if online.method == "preference" else 1)
            yield stage, text(steps, held, kept, rows, length, length)
        elif stage == "critique":
            lists, tokens = config.critique.batch_size, config.critique.max_tokens
            steps = (
                f"{config.critique.steps} steps of {lists} lists of {data.list_size}, critiques up to {tokens} tokens"
            )
            # A separator of one token; rewards after critiques of the model's own need rows of their own.
            rows = lists * data.list_size * (1 if config.critique.source == "data" else 2)
            yield stage, text(steps, held, 0, rows, length + 1 + tokens, tokens)
        else:
            lists = config.reward.batch_size
            steps = f"{config.reward.steps} steps of {lists} lists of {data.list_size}"
            form = config.reward.ensemble
            models = form.members if form.kind == "models" else 1  # of which each reads every response
            rows = models * lists * data.list_size // config.reward.accumulate
            yield stage, text(steps, held, 0, rows, length, 0)


def _with_heads(spec: DecoderSpec, kinds: int, key: jax.Array) -> Params:
    """What a stage of segments trains."""
    return {"decoder": init_decoder(spec, key), "heads": init_token_heads(spec, key, kinds)}


def _actors(config: ConfigDict, policy: DecoderSpec, reward: DecoderSpec, key: jax.Array) -> Params:
    """The networks that PPO trains, as ``ppo_models`` makes them."""
    actors, value = {"policy": init_decoder(policy, key)}, config.ppo.value
    if config.ppo.advantage != "gae":
        return actors
    if value.network == "shared":
        return {**actors, "value": {"head": silent_value_head(policy)}}
    if value.init == "zero":
        return {**actors, "value": {"decoder": actors["policy"], "head": silent_value_head(policy)}}
    return {**actors, "value": value_from_reward(init_reward_model(reward, key), bounded=False)}


def _kept_by_ppo(config: ConfigDict, policy: int, reward: int, width: int) -> int:
    """Parameters of reference and reward model; with adapters their decoders are those of policy and value model, if
    that starts as the reward model.
    """
    judges, form = _members(config, "reward", reward, width), stage_ensemble(config, "reward")
    if lora_spec(config, "ppo") is None:
        return policy + judges
    value, one = config.ppo.value, form.members == 1 or form.kind == "heads"
    started = config.ppo.advantage == "gae" and (value.network, value.init) == ("separate", "reward")
    return judges - reward if started and one else judges


def _judge(config: ConfigDict, policy: DecoderSpec) -> int:
    """Parameters of the reward model that a run has, from a stage or a parent; 0 without one."""
    if not config.parents.reward and "reward" not in config.stages:
        return 0
    reward = _reward_of(config, policy)
    return _members(config, "reward", count_parameters(reward), reward.width)


def _members(config: ConfigDict, stage: str, decoder: int, width: int) -> int:
    """Parameters of the reward model of a stage, all members of an ensemble together."""
    form = stage_ensemble(config, stage)
    return form.members * (decoder + width) if form.kind == "models" else decoder + form.members * width
