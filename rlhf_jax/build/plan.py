"""What a run would do, without doing it: parameters, memory and steps of each stage."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from rlhf_jax.build.context import check_parents, parents_tokenizer, stage_config, stage_ensemble
from rlhf_jax.build.data import Data, fresh_tokenizer, load_data
from rlhf_jax.build.feedback import check_feedback
from rlhf_jax.build.specs import check_utilities, decoder_spec
from rlhf_jax.models import DecoderSpec, init_decoder

HEAD_ROWS = 200
# float32 parameters, gradients and the two moments of Adam.
BYTES_PER_TRAINED, BYTES_PER_FROZEN = 16, 4


def count_parameters(spec: DecoderSpec) -> int:
    """Parameters of a decoder, without making them."""
    shapes = jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def activation_bytes(spec: DecoderSpec, rows: int, length: int, logits_length: int) -> int:
    """An estimate of what one update keeps for its backward pass: per token and layer the block's inputs and outputs,
    per head the attention weights, and the logits twice."""
    per_token = spec.depth * (8 * spec.width + 3 * spec.mlp_width + spec.heads * length)
    return spec.compute_dtype.itemsize * rows * (length * per_token + 2 * logits_length * spec.vocab_size)


def describe_plan(config: ConfigDict, workdir: Path | None) -> str:
    """The plan in words, after having read the head of the data.

    Raises:
      UserError: the head of the data holds a bad row, the tokenizer is not to be had, or a parent has no checkpoints.
    """
    check_utilities(config)
    check_parents(config)
    data = load_data(config, limit=HEAD_ROWS)
    if data.whole:  # what the head of a file lacks may come later
        check_feedback(config, data.lists)
    spec = decoder_spec(config.model, _vocabulary(config, data))
    count = count_parameters(spec)
    lines = [f"model: {count:,} parameters, {spec.depth} layers of width {spec.width}, vocabulary {spec.vocab_size:,}"]
    lines.append(f"data: {config.data.path or 'the embedded world'}, head read without fault")
    lines += [f"  {note}" for note in data.notes]
    lines += [f"stage {stage}: {text}" for stage, text in _stages(config, spec, count)]
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
    scored = count + spec.width + 1  # with a scalar head

    def text(steps: str, trained: int, frozen: int, rows: int, row_length: int, logits_length: int) -> str:
        size = trained * BYTES_PER_TRAINED + frozen * BYTES_PER_FROZEN
        size += activation_bytes(spec, rows, row_length, logits_length)
        return f"{steps}, {trained:,} trained and {frozen:,} frozen parameters, about {size / 2**20:,.0f} MiB"

    for stage in config.stages:
        if stage == "sft":
            rows, row_length = config.sft.batch_size, config.sft.row_length
            yield stage, text(f"{config.sft.steps} steps of {rows} packed rows", count, 0, rows, row_length, row_length)
        elif stage == "segments":
            heads = count + len(config.segments.kinds) * (spec.width + 1)
            rows = config.segments.batch_size
            steps = f"{config.segments.steps} steps of {rows} responses"
            yield stage, text(steps, heads, 0, rows, length, 0)
        elif stage == "ppo":
            ppo = config.ppo
            episodes = ppo.prompts_per_iteration * ppo.samples_per_prompt
            steps = f"{ppo.iterations} iterations of {episodes} episodes, {ppo.epochs * ppo.minibatches} updates each"
            rows = episodes // ppo.minibatches
            reward = decoder_spec(stage_config(config, "reward").model, spec.vocab_size)
            value = count_parameters(reward) + reward.width + 1  # starts as the reward model
            frozen = count + _members(config, "reward", count_parameters(reward), reward.width)
            yield stage, text(steps, count + value, frozen, rows, length, data.max_response)
        elif stage == "critique":
            lists, tokens = config.critique.batch_size, config.critique.max_tokens
            steps = (
                f"{config.critique.steps} steps of {lists} lists of {data.list_size}, critiques up to {tokens} tokens"
            )
            # A separator of one token; rewards after critiques of the model's own need rows of their own.
            rows = lists * data.list_size * (1 if config.critique.source == "data" else 2)
            yield stage, text(steps, scored, 0, rows, length + 1 + tokens, tokens)
        else:
            lists = config.reward.batch_size
            steps = f"{config.reward.steps} steps of {lists} lists of {data.list_size}"
            form = config.reward.ensemble
            models = form.members if form.kind == "models" else 1  # of which each reads every response
            trained = _members(config, stage, count, spec.width)
            yield stage, text(steps, trained, 0, models * lists * data.list_size, length, 0)


def _members(config: ConfigDict, stage: str, decoder: int, width: int) -> int:
    """Parameters of the reward model of a stage, all members of an ensemble together."""
    form = stage_ensemble(config, stage)
    return form.members * (decoder + width) if form.kind == "models" else decoder + form.members * width
