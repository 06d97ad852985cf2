"""Sampling with a key-value cache: one compiled program, in which finished rows leave and which stops when all have."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.generation.prompts import read_prompts
from rlhf_jax.generation.sampling import SamplingSpec, sample_token
from rlhf_jax.mesh import mesh_in_use
from rlhf_jax.models import Cache, DecoderSpec, extend_cache, for_a_loop, gathered, output_logits
from rlhf_jax.objectives.likelihood import token_logprobs
from rlhf_jax.types import Params

# Every loop is a body to compile, which short responses would not pay for. A step of few rows costs as much as one of
# fewer, for it waits for the parameters alone.
LEAST_ROWS, LEAST_TOKENS, MOST_SIZES = 8, 64, 4
LONG = 128  # tokens of a response from which on its first half does without the cache of the second


class Completions(NamedTuple):
    """R response slots a row: ids (padding after the end), a prefix mask with EOS, log-probs in nats (0 past it)."""

    ids: Int[Array, "B R"]
    mask: Bool[Array, "B R"]
    logprobs: Float[Array, "B R"]


class _Rows(NamedTuple):
    """All that is known of each row."""

    key: jax.Array
    prompt_mask: Bool[Array, "B P"]
    done: Bool[Array, "B"]
    out: Completions
    cache: Cache


class _Loop(NamedTuple):
    t: Int[Array, ""]
    rows: _Rows


class Stage(NamedTuple):
    """A loop over tokens: of how many rows, and up to which slot of the response."""

    rows: int
    end: int


def stages_of(rows: int, max_new_tokens: int, *, ends: bool) -> tuple[Stage, ...]:
    """The loops of one device, one after the other: of all rows, for long responses first without the cache of their
    second half; then, where rows may end early, of half the rows as soon as half have ended, and so on.
    """
    halfway = (Stage(rows, max_new_tokens // 2),) if max_new_tokens >= LONG else ()
    stages = [Stage(rows, max_new_tokens)]
    if ends and max_new_tokens >= LEAST_TOKENS:
        while len(stages) < MOST_SIZES and stages[-1].rows >= 2 * LEAST_ROWS:
            stages.append(Stage(-(-stages[-1].rows // 2), max_new_tokens))
    return *halfway, *stages


def generate(
    spec: DecoderSpec,
    params: Params,
    prompt_ids: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    row_keys: jax.Array,
    *,
    max_new_tokens: int,
    sampling: SamplingSpec,
    eos_id: int,
    pad_id: int,
    samples: int = 1,
) -> Completions:
    """Sample up to ``max_new_tokens`` tokens after each left-padded prompt.

    ``row_keys`` holds one key a row; the token at slot t is drawn with fold_in(row_key, t), so that a row's sample
    depends neither on the batch it stands in nor on the device. The log-probs are those of the whole softmax at the
    sampling temperature (at temperature 1 when greedy), top-k and top-p not applied: what training recomputes.

    ``eos_id`` -1: no response ends early. ``samples`` rows are expected to have the same prompt, wherever they stand,
    which then is read once; the result does not depend on whether they do. The rows of one device are compacted when
    half of them have ended, those of a mesh of several are not.
    """
    rows, prompt_length = prompt_ids.shape
    params = gathered(params, spec.compute_dtype)
    alone = mesh_in_use() is None  # on a mesh of several devices the rows that are left would have to move
    stages = stages_of(rows, max_new_tokens, ends=eos_id >= 0) if alone else (Stage(rows, max_new_tokens),)
    temperature = sampling.temperature or 1.0

    def draw(t: Int[Array, ""], logits: Float[Array, "B V"], rows: _Rows) -> tuple[Completions, Bool[Array, "B"]]:
        """(the completions with token t, which rows have ended with it)."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(rows.key, t)
        token = jax.vmap(lambda key, row: sample_token(sampling, key, row))(keys, logits)
        token = jnp.where(rows.done, pad_id, token).astype(jnp.int32)
        logprob = jnp.where(rows.done, 0.0, token_logprobs(logits, token, temperature))
        column = Completions(token, ~rows.done, logprob.astype(rows.out.logprobs.dtype))
        out = jax.tree.map(
            lambda whole, one: jax.lax.dynamic_update_slice(whole, one[:, None], (jnp.zeros_like(t), t)),
            rows.out,
            column,
        )
        return out, rows.done | (token == eos_id)

    def advance(loop: _Loop) -> _Loop:
        """Read token t - 1, draw token t."""
        t, rows = loop
        slot = prompt_length + t - 1
        token = jax.lax.dynamic_slice_in_dim(rows.out.ids, t - 1, 1, axis=1)
        slots = jnp.arange(rows.cache[0][0].shape[2])
        prompt = jnp.pad(rows.prompt_mask, ((0, 0), (0, len(slots) - prompt_length)))
        view = prompt | ((slots >= prompt_length) & (slots <= slot))[None]
        position = jnp.sum(rows.prompt_mask, axis=1, dtype=jnp.int32)[:, None] + t - 1
        hidden, cache = extend_cache(spec, params, token, position, view[:, None], rows.cache, slot)
        out, done = draw(t, output_logits(spec, params, hidden[:, 0]), rows)
        return _Loop(t + 1, rows._replace(out=out, done=done, cache=cache))

    hidden, cache = read_prompts(spec, params, prompt_ids, prompt_mask, prompt_length + stages[0].end, samples)
    params = for_a_loop(spec, params)
    logits = output_logits(spec, params, hidden)
    empty = Completions(
        jnp.full((rows, max_new_tokens), pad_id, jnp.int32),
        jnp.zeros((rows, max_new_tokens), bool),
        jnp.zeros((rows, max_new_tokens), jnp.promote_types(logits.dtype, jnp.float32)),
    )
    start, nobody = jnp.zeros((), jnp.int32), jnp.zeros((rows,), bool)
    everybody = _Rows(row_keys, prompt_mask, nobody, empty, cache)
    out, done = draw(start, logits, everybody)
    first = _Loop(start + 1, everybody._replace(out=out, done=done))
    return _run(advance, first, stages)


def _run(advance: Callable[[_Loop], _Loop], loop: _Loop, stages: tuple[Stage, ...]) -> Completions:
    """The completions when all rows have ended, or the last stage."""
    stage, *later = stages
    fewer = next((one.rows for one in later if one.rows < stage.rows), 0)
    loop = jax.lax.while_loop(lambda loop: (loop.t < stage.end) & (jnp.sum(~loop.rows.done) > fewer), advance, loop)
    if not later:
        return loop.rows.out
    # Not in a branch, though all may have ended: what a branch is given is kept beside what it makes of it.
    room = [(0, 0), (0, 0), (0, later[0].end - stage.end), (0, 0)]
    rows = loop.rows._replace(cache=jax.tree.map(lambda leaf: jnp.pad(leaf, room), loop.rows.cache))
    if later[0].rows == stage.rows:
        return _run(advance, _Loop(loop.t, rows), tuple(later))
    left = jnp.argsort(rows.done, stable=True)[: later[0].rows]  # those that have not ended come first
    rest = jax.tree.map(lambda leaf: leaf[left], rows)
    out = _run(advance, _Loop(loop.t, rest), tuple(later))
    return jax.tree.map(lambda whole, part: whole.at[left].set(part), rows.out, out)
