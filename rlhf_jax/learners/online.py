"""Online preference learning: a list of the policy's own answers to each prompt, ranked by their reward, trains it.

Two ways of using a list: a direct preference loss on its comparisons (online DPO, Guo et al. 2024; with a reference
that follows the policy, iterated DPO, Xu et al. 2023), or the likelihood of its best answer alone (expert iteration,
Anthony et al. 2017), which imitates the best-of-n policy.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rlhf_jax.generation import ended
from rlhf_jax.learners.preference import PreferenceSpec, response_logprobs
from rlhf_jax.learners.preference import loss_sums as preference_sums
from rlhf_jax.learners.step import LossSums, Metrics, gradient_step, not_finite_bits, over_updates
from rlhf_jax.types import Params, PreferenceBatch, RankBatch, Rollout, TrainState


@dataclasses.dataclass(frozen=True)
class OnlineSpec:
    """Constants of an iteration. ``samples`` answers to each prompt stand in consecutive rows of a rollout.

    ``minibatches`` must divide the number of prompts. ``reference_every`` iterations the policy becomes the reference,
    which then is ``state.extra["reference"]``; 0: never. Without ``referenced`` the reference counts as 0.
    """

    preference: PreferenceSpec
    samples: int
    method: Literal["preference", "expert"] = "preference"
    epochs: int = 1
    minibatches: int = 1
    reference_every: int = 0
    referenced: bool = True


def step_keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """(key of this iteration's samples, key of its minibatch order)."""
    sample_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    return sample_key, shuffle_key


def ranked_lists(spec: OnlineSpec, rollout: Rollout) -> PreferenceBatch:
    """The answers to each prompt as a list, compared by their scores; equal scores are ties, identical answers too."""
    n = spec.samples

    def lists(leaf: Array) -> Array:
        return leaf.reshape(-1, n, *leaf.shape[1:])

    scores = lists(rollout.scores)
    better = scores[:, :, None] > scores[:, None, :]
    real = lists(rollout.index) >= 0
    both = real[:, :, None] & real[:, None, :]
    nothing = jnp.full_like(scores, jnp.nan)
    reference = jnp.sum(jnp.where(rollout.response_mask, rollout.ref_logprobs, 0.0), axis=1)
    rows = len(scores)
    return PreferenceBatch(
        lists=RankBatch(
            prompt_ids=rollout.prompt_ids[::n],
            prompt_mask=rollout.prompt_mask[::n],
            ids=lists(rollout.response_ids),
            mask=lists(rollout.response_mask),
            ranks=jnp.sum(better, axis=1, dtype=jnp.int32),
            response_mask=real,
            utility=jnp.zeros(rows, jnp.int32),
            better=better & both,
            tied=(scores[:, :, None] == scores[:, None, :]) & both & ~jnp.eye(n, dtype=bool),
            margin=jnp.zeros(rows, scores.dtype),
            weight=jnp.ones(rows, scores.dtype),
            labels=nothing,
            scores=scores,
            index=lists(rollout.index)[:, 0],
        ),
        ref_logprobs=lists(reference if spec.referenced else jnp.zeros_like(reference)),
    )


def best_answers(lists: PreferenceBatch) -> PreferenceBatch:
    """Each list's best answer alone; of equal ones the first, which is a random one."""
    place = jnp.argmax(lists.lists.scores, axis=1)

    def one(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, place.reshape(-1, *[1] * (leaf.ndim - 1)), axis=1)

    own = lists.lists
    kept = {name: one(getattr(own, name)) for name in ("ids", "mask", "ranks", "response_mask", "labels", "scores")}
    pairs = jnp.zeros((len(place), 1, 1), bool)
    alone = dataclasses.replace(own, better=pairs, tied=pairs, **kept)
    return PreferenceBatch(alone, one(lists.ref_logprobs))


def expert_sums(spec: PreferenceSpec, params: Params, batch: PreferenceBatch) -> LossSums:
    """Negative log-likelihood of the answers: nats, weight in tokens."""
    logprobs = response_logprobs(spec, params, batch)
    return LossSums(-jnp.sum(logprobs), jnp.sum(batch.lists.mask), {})


def rollout_metrics(lists: PreferenceBatch, rollout: Rollout, eos_id: int) -> Metrics:
    """What the samples say of the policy that made them; ``kl`` is the k1 estimate against the current reference, in
    nats per answer, ``reward.best`` the mean score of the lists' best answers.
    """
    mask = rollout.response_mask
    spread = {} if rollout.spread is None else {"reward.spread": jnp.mean(rollout.spread)}
    return spread | {
        "reward.mean": jnp.mean(rollout.raw_scores),
        "reward.std": jnp.std(rollout.raw_scores),
        "reward.best": jnp.mean(jnp.max(lists.lists.scores, axis=1)),
        "kl": jnp.mean(jnp.sum(jnp.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0), axis=1)),
        "length": jnp.mean(jnp.sum(mask, axis=1)),
        "eos_fraction": jnp.mean(ended(rollout, eos_id)),
    }


def update(
    spec: OnlineSpec,
    optimizer: optax.GradientTransformation,
    eos_id: int,
    state: TrainState,
    rollout: Rollout,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One iteration on its samples. Under ``axis_name`` each device gathers them, then works on its share of every
    minibatch. Where a score or a log-probability is not finite no update of the iteration is made.
    """
    if axis_name is not None:
        rollout = jax.lax.all_gather(rollout, axis_name, tiled=True)
    ranked = ranked_lists(spec, rollout)
    mask = rollout.response_mask
    spoilt = not_finite_bits(
        reward=(rollout.scores, rollout.raw_scores),
        log_probability=(jnp.where(mask, rollout.logprobs, 0.0), jnp.where(mask, rollout.ref_logprobs, 0.0)),
    )
    expert = spec.method == "expert"
    lists = best_answers(ranked) if expert else ranked
    loss = partial(expert_sums if expert else preference_sums, spec.preference)
    count = len(lists.lists.index)

    def minibatch(carry: tuple[Params, optax.OptState], rows: Int[Array, "M"]) -> tuple[Any, Metrics]:
        if axis_name is not None:
            share = rows.shape[0] // jax.lax.axis_size(axis_name)
            rows = jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(axis_name) * share, share)
        batch = jax.tree.map(lambda leaf: leaf[rows], lists)
        params, opt_state, metrics = gradient_step(loss, optimizer, *carry, batch, axis_name, sound=spoilt == 0)
        return (params, opt_state), metrics

    epoch_keys = jax.random.split(step_keys(state)[1], spec.epochs)
    orders = jax.vmap(lambda key: jax.random.permutation(key, count))(epoch_keys).reshape(
        spec.epochs * spec.minibatches, count // spec.minibatches
    )
    (params, opt_state), metrics = jax.lax.scan(minibatch, (state.params, state.opt_state), orders)
    metrics = {name: jnp.mean(values) for name, values in metrics.items()} | over_updates(metrics)
    metrics["not_finite"] |= spoilt
    metrics |= rollout_metrics(ranked, rollout, eos_id)
    extra = state.extra
    if spec.reference_every:
        renewed = (state.step + 1) % spec.reference_every == 0
        kept = jax.tree.map(partial(jnp.where, renewed), params, extra["reference"])
        extra = {**extra, "reference": kept}
    return TrainState(state.step + 1, params, opt_state, state.key, extra), metrics
