"""Critique, then score: one decoder writes what it makes of a response, and its head reads the reward after that.

A row is prompt, response, separator, critique; the reward stands at the critique's last token. Source: Ankner et al.
2024 (critique-out-loud reward models, arXiv 2408.11791). There the model's own critiques are written once, by a model
that was fine-tuned on given ones; here they are written anew at every step by the model as it is, and the given ones go
on being imitated, so that the critiques do not drift away from what people would say.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from rlhf_jax.generation import SamplingSpec, generate
from rlhf_jax.learners.step import LossSums, Metrics, train_step
from rlhf_jax.models import (
    DecoderSpec,
    at_last,
    output_logits,
    read_lists,
    read_reward,
)
from rlhf_jax.objectives.likelihood import read_chunks, token_hits, token_logprobs
from rlhf_jax.objectives.masked import masked_mean, masked_sum
from rlhf_jax.objectives.ranking import prompt_aware_loss
from rlhf_jax.objectives.utilities import Utility
from rlhf_jax.types import CritiqueBatch, Params, RankBatch, TrainState


@dataclasses.dataclass(frozen=True)
class CritiqueSpec:
    """A model that critiques and scores. ``weights`` multiply the ranking loss under each utility (None: by 1).

    ``max_critique`` tokens a critique, its end included. ``lm_weight`` multiplies the likelihood loss of the given
    critiques. ``own`` is the share of rewards that are read after a critique of the model's own, sampled at
    ``temperature``, from step ``first_steps`` on; before, all are read after the given critiques.
    """

    decoder: DecoderSpec
    bounded: bool
    utilities: tuple[Utility, ...]
    max_critique: int
    eos_id: int
    pad_id: int
    weights: tuple[float, ...] | None = None
    lm_weight: float = 1.0
    own: float = 0.0
    first_steps: int = 0
    temperature: float = 1.0


class Critiques(NamedTuple):
    """One critique a response, right-padded; ``mask`` marks its tokens, all False where there is none."""

    ids: Int[Array, "B K C"]
    mask: Bool[Array, "B K C"]


class Judged(NamedTuple):
    """Rewards, the mean over the critiques that were written of a response, and the first of these."""

    rewards: Float[Array, "B K"]
    first: Critiques


def list_rewards(spec: CritiqueSpec, params: Params, lists: RankBatch, critiques: Critiques) -> Float[Array, "B K"]:
    """The reward of every response, read at the last token of its critique (of the separator, where there is none)."""
    return _read(spec, params, lists, critiques)[0]


def write_critiques(
    spec: CritiqueSpec, params: Params, lists: RankBatch, key: jax.Array, temperature: float, first_row: Array | int = 0
) -> Critiques:
    """A critique of every response; 0 is greedy.

    Row b, counted from ``first_row`` over all devices, and column k have a random stream of their own.
    """
    ids, mask = _contexts(lists)
    rows, columns = lists.response_mask.shape
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first_row * columns + jnp.arange(rows * columns))
    found = generate(
        spec.decoder,
        params["decoder"],
        ids,
        mask,
        keys,
        max_new_tokens=spec.max_critique,
        sampling=SamplingSpec(temperature=temperature),
        eos_id=spec.eos_id,
        pad_id=spec.pad_id,
    )
    shape = (rows, columns, spec.max_critique)
    return Critiques(found.ids.reshape(shape), found.mask.reshape(shape) & lists.response_mask[:, :, None])


def judge(
    spec: CritiqueSpec, params: Params, lists: RankBatch, key: jax.Array, *, samples: int, axis_name: str | None = None
) -> Judged:
    """What the model does when it is used: one greedy critique a response and the reward after it, or the mean reward
    after ``samples`` > 1 critiques drawn at the spec's temperature.
    """
    temperature = spec.temperature if samples > 1 else 0.0
    first_row = _first_row(lists, axis_name)

    def one(key: jax.Array) -> tuple[Float[Array, "B K"], Critiques]:
        critiques = write_critiques(spec, params, lists, key, temperature, first_row)
        return list_rewards(spec, params, lists, critiques), critiques

    rewards, critiques = jax.lax.map(one, jax.random.split(key, samples))
    return Judged(jnp.mean(rewards, axis=0), jax.tree.map(lambda leaf: leaf[0], critiques))


def ranking_sums(
    spec: CritiqueSpec, rewards: Float[Array, "B K"], lists: RankBatch, judged: Bool[Array, "B K"]
) -> tuple[Float[Array, "B"], Bool[Array, "B K K"]]:
    """(ranking loss of each list, its pairs), over the comparisons of responses that were ``judged``."""
    better = lists.better & judged[:, :, None] & judged[:, None, :]

    def one(rewards: Array, ranks: Array, mask: Array, index: Array, better: Array, weights: Array) -> Float[Array, ""]:
        loss = prompt_aware_loss(
            rewards=rewards, ranks=ranks, mask=mask, utilities=spec.utilities, index=index, better=better
        )
        return loss * weights[index]

    weights = jnp.asarray(spec.weights or (1.0,) * len(spec.utilities), rewards.dtype)
    losses = jax.vmap(one, (0, 0, 0, 0, 0, None))(
        rewards, lists.ranks, lists.response_mask & judged, lists.utility, better, weights
    )
    return losses, better


def loss_sums(spec: CritiqueSpec, params: Params, batch: CritiqueBatch, read: Critiques | None = None) -> LossSums:
    """Of each list the ranking loss of its rewards + lm_weight x the mean loss per token of its given critiques.

    Rewards are read after ``read`` (None: the given critiques); comparisons with a response without one are left out.
    The likelihood is that of the given critiques whatever is read. Weight in lists that have either, times their own.
    """
    lists, given = batch.lists, Critiques(batch.ids, batch.mask)
    rewards, states = _read(spec, params, lists, given)
    flat_ids, flat_mask = (leaf.reshape(-1, spec.max_critique) for leaf in given)
    flat_logprobs, hits = read_chunks(
        lambda logits, ids: (token_logprobs(logits, ids), token_hits(logits, ids)),
        states,
        flat_ids,
        partial(output_logits, spec.decoder, params["decoder"]),
    )
    logprobs = flat_logprobs.reshape(given.ids.shape)
    likelihoods = jax.vmap(masked_mean)(-logprobs, given.mask)

    if read is None:
        read = given
    else:
        rewards = list_rewards(spec, params, lists, read)
    ranking, better = ranking_sums(spec, rewards, lists, jnp.any(read.mask, axis=2))
    ranked = jnp.any(better, axis=(1, 2))
    counted = ranked | jnp.any(given.mask, axis=(1, 2))
    losses = ranking + spec.lm_weight * likelihoods.astype(ranking.dtype)

    gaps = rewards[:, :, None] - rewards[:, None, :]
    right = jnp.where(gaps == 0, 0.5, gaps > 0).astype(gaps.dtype)
    pairs, tokens, written = jnp.sum(better), jnp.sum(flat_mask), jnp.any(read.mask, axis=2)
    metrics = {
        "ranking_loss": (masked_sum(ranking * lists.weight, ranked), masked_sum(lists.weight, ranked)),
        "critique_loss": (masked_sum(-logprobs, given.mask), tokens),
        "critique_accuracy": (masked_sum(hits, flat_mask), tokens),
        "critique_length": (jnp.sum(read.mask), jnp.sum(written)),
        "pair_accuracy": (masked_sum(right, better), pairs),
        "gap_mean": (masked_sum(gaps, better), pairs),
        "reward_mean": (masked_sum(rewards, written), jnp.sum(written)),
    }
    return LossSums(masked_sum(losses * lists.weight, counted), masked_sum(lists.weight, counted), metrics)


def update(
    spec: CritiqueSpec,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: CritiqueBatch,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One step. Critiques of the model's own are drawn from its parameters before the step, without a gradient."""
    if not spec.own:
        return train_step(partial(loss_sums, spec), optimizer, state, batch, axis_name=axis_name)
    given = Critiques(batch.ids, batch.mask)
    draw_key, coin_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    first_row = _first_row(batch.lists, axis_name)

    def chosen() -> Critiques:
        written = write_critiques(spec, state.params, batch.lists, draw_key, spec.temperature, first_row)
        rows, columns = batch.lists.response_mask.shape
        keys = jax.vmap(jax.random.fold_in, (None, 0))(coin_key, first_row * columns + jnp.arange(rows * columns))
        own = jax.vmap(jax.random.uniform)(keys).reshape(rows, columns) < spec.own
        own |= ~jnp.any(given.mask, axis=2)
        return jax.tree.map(lambda mine, theirs: jnp.where(own[:, :, None], mine, theirs), written, given)

    read = jax.lax.cond(state.step < spec.first_steps, lambda: given, chosen)
    return train_step(
        lambda params, both: loss_sums(spec, params, *both), optimizer, state, (batch, read), axis_name=axis_name
    )


def _first_row(lists: RankBatch, axis_name: str | None) -> Array | int:
    """The number of this device's first list among those of all devices."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * lists.ids.shape[0]


def _contexts(lists: RankBatch) -> tuple[Int[Array, "N T"], Bool[Array, "N T"]]:
    """Prompt, response and separator of all responses, padding moved to the left: critiques follow at one place."""
    rows, columns, length = lists.ids.shape

    def each(prompts: Shaped[Array, "B P"], responses: Shaped[Array, "B K R"]) -> Shaped[Array, "N T"]:
        copies = jnp.broadcast_to(prompts[:, None], (rows, columns, prompts.shape[1]))
        return jnp.concatenate([copies, responses], axis=2).reshape(rows * columns, -1)

    ids, mask = each(lists.prompt_ids, lists.ids), each(lists.prompt_mask, lists.mask)
    padding = length - jnp.sum(mask[:, -length:], axis=1, keepdims=True)
    source = (jnp.arange(ids.shape[1]) - padding) % ids.shape[1]
    return jnp.take_along_axis(ids, source, axis=1), jnp.take_along_axis(mask, source, axis=1)


def _with_critiques(lists: RankBatch, critiques: Critiques) -> RankBatch:
    """The lists with responses that go on as critiques."""
    length = lists.ids.shape[2]
    slots, own = jnp.arange(length + critiques.ids.shape[2]), _lengths(lists)
    source = jnp.where(slots < own, slots, jnp.minimum(slots - own + length, len(slots) - 1))
    ids, mask = (
        jnp.take_along_axis(jnp.concatenate(pair, axis=2), source, axis=2)
        for pair in zip((lists.ids, lists.mask), critiques, strict=True)
    )
    return dataclasses.replace(lists, ids=ids, mask=mask & (slots - own < critiques.ids.shape[2]))


def _lengths(lists: RankBatch) -> Int[Array, "B K 1"]:
    """Tokens of response and separator."""
    return jnp.sum(lists.mask, axis=2, keepdims=True)


def _read(
    spec: CritiqueSpec, params: Params, lists: RankBatch, critiques: Critiques
) -> tuple[Float[Array, "B K"], Float[Array, "N C D"]]:
    """(rewards, the final hidden states that the tokens of all critiques are predicted from)."""
    whole = _with_critiques(lists, critiques)
    hidden = read_lists(spec.decoder, params["decoder"], whole)[:, :, 1:]
    flat, mask = hidden.reshape(-1, *hidden.shape[2:]), whole.mask.reshape(-1, whole.mask.shape[2])
    rewards = read_reward(params["head"], at_last(flat, mask), bounded=spec.bounded)
    before = jnp.maximum(_lengths(lists).reshape(-1, 1) - 1 + jnp.arange(spec.max_critique), 0)
    states = jnp.take_along_axis(flat, before[:, :, None], axis=1)
    return rewards.reshape(lists.response_mask.shape), states
