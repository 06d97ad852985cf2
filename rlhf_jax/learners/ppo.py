"""PPO on a rollout: advantages over the whole of it, then epochs of minibatches, all on the device.

Policy and value model are two networks updated together, or one; the details follow Ziegler et al. 2019 and Huang et
al. 2024. Policy gradients without a value model differ in their advantages alone, and are learned here too.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.finite import all_finite
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.ppo_loss import Episodes, loss_sums, with_weights
from rlhf_jax.learners.ppo_metrics import rollout_metrics, value_metrics
from rlhf_jax.learners.ppo_spec import KLSpec, PPOSpec, RewardRules
from rlhf_jax.learners.ppo_targets import Targets, kept_tokens, running_moments, targets, valued_slots, values_of
from rlhf_jax.learners.step import Metrics, gradient_step, not_finite_bits, over_updates
from rlhf_jax.objectives.ppo import adapt_kl_coefficient
from rlhf_jax.types import Params, Rollout, TokenBatch, TrainState
from rlhf_jax.unpadding import ALL, Room

__all__ = [
    "Episodes",
    "KLSpec",
    "PPOSpec",
    "RewardRules",
    "Targets",
    "episodes_of",
    "loss_price",
    "loss_sums",
    "make_ppo_optimizer",
    "minibatches",
    "running_moments",
    "step_keys",
    "targets",
    "update",
    "with_weights",
]


def step_keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """(key of this iteration's rollout, key of its minibatch order)."""
    rollout_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    return rollout_key, shuffle_key


def make_ppo_optimizer(policy: OptimizerSpec, value: OptimizerSpec | None) -> optax.GradientTransformation:
    """Each network has its own optimizer, clipped by its own gradient norm; ``value`` None: all share the policy's."""
    if value is None:
        return make_optimizer(policy)
    return optax.partition(
        {"policy": make_optimizer(policy), "value": make_optimizer(value)}, {"policy": "policy", "value": "value"}
    )


def episodes_of(spec: PPOSpec, rollout: Rollout, found: Targets) -> Episodes:
    """The rows of a rollout as the loss reads them."""
    kept = kept_tokens(spec, rollout)
    slots = valued_slots(spec, rollout.response_mask) & jnp.any(kept, axis=1)[:, None]
    return Episodes(
        ids=jnp.concatenate([rollout.prompt_ids, rollout.response_ids], axis=1),
        mask=jnp.concatenate([rollout.prompt_mask, rollout.response_mask], axis=1),
        response_mask=kept,
        logprobs=rollout.logprobs,
        ref_logprobs=rollout.ref_logprobs,
        values=rollout.values,
        advantages=found.advantages,
        returns=found.value_targets,
        value_mask=slots if spec.rewards.score_at == "after" else None,
    )


def update(
    spec: PPOSpec,
    optimizer: optax.GradientTransformation,
    eos_id: int,
    state: TrainState,
    rollout: Rollout,
    pretraining: TokenBatch | None = None,
    reference: Params | None = None,
    *,
    room: Room = ALL,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One PPO iteration on a rollout; ``state.params`` holds ``policy`` and ``value``, ``extra`` ``kl_coefficient``.

    Of ``pretraining`` every update has an equal share of the rows; ``reference`` is the policy that an exact divergence
    in the loss is from. There is ``room`` for the tokens of every part of a minibatch that is worked on at once. Under
    ``axis_name`` each device first gathers the rollout, so that whitening and minibatches are those of one device, and
    then works on its share of every minibatch.

    One reward, value or log-probability that is not finite spoils the advantages of all: no update of the iteration is
    made then, and ``extra`` keeps its bits.
    """
    if axis_name is not None:
        rollout, pretraining = jax.lax.all_gather((rollout, pretraining), axis_name, tiled=True)
    beta = state.extra["kl_coefficient"]
    found = targets(spec, rollout, beta, state.extra)
    spoilt = spoilt_by(rollout, found)
    episodes = episodes_of(spec, rollout, found)
    count, updates = rollout.scores.shape[0], spec.epochs * spec.minibatches
    losses = partial(loss_sums, spec, kl_coefficient=loss_price(spec, beta, found), reference=reference, room=room)

    def attempt(carry: tuple[Params, optax.OptState], rows: Int[Array, "M"], mixed: TokenBatch | None) -> Any:
        batch = with_weights(spec, jax.tree.map(lambda leaf: leaf[rows], episodes), mixed)
        if axis_name is not None:
            batch = jax.tree.map(partial(_share, axis_name), batch)
        params, opt_state, metrics = gradient_step(
            losses, optimizer, *carry, batch, axis_name, microbatches=spec.microbatches, sound=spoilt == 0
        )
        return (params, opt_state), metrics

    orders = minibatches(spec, state, count)
    mixed = jax.tree.map(lambda leaf: leaf.reshape(updates, -1, *leaf.shape[1:]), pretraining)
    (params, opt_state), metrics = run_updates(spec, attempt, (state.params, state.opt_state), (orders, mixed))

    metrics |= rollout_metrics(spec.kl.regulariser, rollout, eos_id) | {"kl_coefficient": beta}
    if found.returns is not None:
        slots = valued_slots(spec, rollout.response_mask)
        metrics |= value_metrics(values_of(spec, rollout, state.extra), found.returns, slots)
    if spec.kl.controller == "adaptive":
        adapted = adapt_kl_coefficient(
            coefficient=beta, kl=metrics["kl"], target=spec.kl.target, episodes=count, horizon=spec.kl.horizon
        )
        # In float64 the divergence is wider than the coefficient: another type in the state would compile anew.
        beta = adapted.astype(beta.dtype)
    extra = {**found.extra, "kl_coefficient": beta}
    kept = (spoilt == 0) & all_finite(extra)
    extra = jax.tree.map(partial(jnp.where, kept), extra, dict(state.extra))
    metrics["not_finite"] |= spoilt
    return TrainState(state.step + 1, params, opt_state, state.key, extra), metrics


def minibatches(spec: PPOSpec, state: TrainState, count: int) -> Int[Array, "U M"]:
    """The episodes, of ``count``, of each update of the iteration that a state is at."""
    keys = jax.random.split(step_keys(state)[1], spec.epochs)
    orders = jax.vmap(lambda one: jax.random.permutation(one, count))(keys)
    return orders.reshape(spec.epochs * spec.minibatches, count // spec.minibatches)


def spoilt_by(rollout: Rollout, found: Targets) -> Int[Array, ""]:
    """What of a rollout, or of the targets made of it, is not finite: bits of ``step.CAUSES``."""
    mask = rollout.response_mask

    def masked(values: Float[Array, "N R"] | None) -> Any:
        return jax.tree.map(lambda leaf: jnp.where(mask, leaf, 0.0), values)

    return not_finite_bits(
        reward=(rollout.scores, rollout.raw_scores, masked(rollout.dense)),
        value=rollout.values,
        log_probability=(masked(rollout.logprobs), masked(rollout.ref_logprobs), masked(rollout.divergences)),
        target=(masked(found.advantages), found.value_targets, found.extra),
    )


def loss_price(spec: PPOSpec, kl_coefficient: Float[Array, ""], found: Targets) -> Float[Array, ""]:
    """What a nat in the loss costs: beta, in the units of the advantages where another part stands in the reward.

    Alone in the loss the price stays as published (GRPO), whatever becomes of rewards.
    """
    return kl_coefficient * found.unit if spec.kl.regulariser.placement == "both" else kl_coefficient


def run_updates(spec: PPOSpec, attempt: Any, start: tuple[Params, optax.OptState], batches: Any) -> tuple[Any, Metrics]:
    """All updates of an iteration one after the other, and the means of their metrics.

    With ``stop_kl`` an update that would begin from a policy further than that from the one that sampled is not made,
    and none after it; ``updates`` counts those that were made, ``skipped`` those that were not
    for something that was not finite. Means are over those that were begun.
    """
    if not spec.stop_kl:
        end, metrics = jax.lax.scan(lambda carry, batch: attempt(carry, *batch), start, batches)
        means = {name: jnp.mean(values) for name, values in metrics.items()} | over_updates(metrics)
        made = spec.epochs * spec.minibatches - means["skipped"]
        return end, means | _extremes(metrics) | {"updates": made}

    shapes = jax.eval_shape(attempt, start, *jax.tree.map(lambda leaf: leaf[0], batches))[1]
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def one(carry: tuple[Any, Bool[Array, ""]], batch: Any) -> tuple[Any, Any]:
        before, going = carry
        after, metrics = jax.lax.cond(going, lambda: attempt(before, *batch), lambda: (before, nothing))
        near = going & ~(metrics["approx_kl"] > spec.stop_kl)  # of an update that was skipped it may be none
        return (jax.tree.map(partial(jnp.where, near), after, before), near), (metrics, going, near)

    (end, _), (metrics, begun, made) = jax.lax.scan(one, (start, jnp.bool_(True)), batches)
    means = {name: jnp.sum(values) / jnp.sum(begun) for name, values in metrics.items()} | over_updates(metrics)
    seen = {name: jnp.where(begun, values, -jnp.inf) for name, values in metrics.items()}
    made &= metrics["skipped"] == 0
    return end, means | _extremes(seen) | {"updates": jnp.sum(made).astype(jnp.float32)}


def _extremes(metrics: Metrics) -> Metrics:
    """The extreme ratios of tokens over all updates, 1 where there was no token."""
    largest, smallest = jnp.max(metrics["ratio.max"]), -jnp.max(metrics["ratio.min"])
    seen = largest > -jnp.inf
    return {"ratio.max": jnp.where(seen, largest, 1.0), "ratio.min": jnp.where(seen, smallest, 1.0)}


def _share(axis_name: str, leaf: Float[Array, "M *S"] | Any) -> Any:
    """The rows of a minibatch that are this device's."""
    share = leaf.shape[0] // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(axis_name) * share, share)
