"""PPO on a rollout: advantages over the whole of it, then epochs of minibatches, all on the device.

Policy and value model are two networks updated together; the details follow Ziegler et al. 2019 and Huang et al. 2024.
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import LossSums, Metrics, gradient_step
from rlhf_jax.models import DecoderSpec, apply_decoder, apply_value_model, causal_mask, output_logits, positions_of
from rlhf_jax.objectives.advantages import generalized_advantages, token_rewards
from rlhf_jax.objectives.likelihood import read_chunks, token_entropy, token_logprobs
from rlhf_jax.objectives.masked import masked_mean, masked_sum, masked_whiten
from rlhf_jax.objectives.ppo import adapt_kl_coefficient, clipped_policy_loss, clipped_value_loss
from rlhf_jax.types import Params, Rollout, TrainState


@dataclasses.dataclass(frozen=True)
class KLSpec:
    """The price of leaving the reference policy: beta in reward per nat, fixed or steered to ``target`` nats."""

    coefficient: float = 0.05
    controller: Literal["fixed", "adaptive"] = "fixed"
    target: float = 6.0
    horizon: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class PPOSpec:
    """Constants of the update. ``minibatches`` must divide the number of episodes.

    ``microbatches`` are the parts in which the rows of a minibatch are worked on, which changes nothing but memory.
    """

    policy: DecoderSpec
    value: DecoderSpec
    temperature: float = 1.0
    epochs: int = 4
    minibatches: int = 4
    gamma: float = 1.0
    lambda_: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    whiten_advantages: bool = True
    kl: KLSpec = KLSpec()
    microbatches: int = 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episodes:
    """What a minibatch needs: whole rows, and the targets computed once from the whole rollout."""

    ids: Int[Array, "N T"]
    mask: Bool[Array, "N T"]
    response_mask: Bool[Array, "N R"]
    logprobs: Float[Array, "N R"]
    values: Float[Array, "N R"]
    advantages: Float[Array, "N R"]
    returns: Float[Array, "N R"]


class Targets(NamedTuple):
    """Advantages (whitened if asked) and returns = raw advantage + value, over t in [0, R)."""

    advantages: Float[Array, "N R"]
    returns: Float[Array, "N R"]


def step_keys(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """(key of this iteration's rollout, key of its minibatch order)."""
    rollout_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    return rollout_key, shuffle_key


def make_ppo_optimizer(policy: OptimizerSpec, value: OptimizerSpec) -> optax.GradientTransformation:
    """Each network has its own optimizer, clipped by its own gradient norm."""
    return optax.partition(
        {"policy": make_optimizer(policy), "value": make_optimizer(value)}, {"policy": "policy", "value": "value"}
    )


def targets(spec: PPOSpec, rollout: Rollout, kl_coefficient: Float[Array, ""]) -> Targets:
    """What the policy and the value model are to be moved to."""

    def episode(
        score: Array, logprobs: Array, ref_logprobs: Array, values: Array, mask: Array, dense: Array | None
    ) -> tuple[Float[Array, "R"], Float[Array, "R"]]:
        rewards = token_rewards(
            score=score, logprobs=logprobs, ref_logprobs=ref_logprobs, mask=mask, kl_coefficient=kl_coefficient
        )
        if dense is not None:
            rewards += jnp.where(mask, dense, 0.0)
        advantages = generalized_advantages(
            rewards=rewards, values=values, mask=mask, gamma=spec.gamma, lambda_=spec.lambda_
        )
        return advantages, jnp.where(mask, advantages + values, 0.0)

    advantages, returns = jax.vmap(episode)(
        rollout.scores, rollout.logprobs, rollout.ref_logprobs, rollout.values, rollout.response_mask, rollout.dense
    )
    if spec.whiten_advantages:
        advantages = masked_whiten(advantages, rollout.response_mask)
    return Targets(advantages, returns)


def loss_sums(spec: PPOSpec, params: Params, batch: Episodes) -> LossSums:
    """Clipped surrogate + value_coefficient x clipped value loss, summed over response tokens."""
    length = batch.response_mask.shape[1]
    hidden, _ = apply_decoder(
        spec.policy, params["policy"], batch.ids, positions_of(batch.mask), causal_mask(batch.mask)
    )

    def read(logits: Float[Array, "S V"], ids: Int[Array, "S"]) -> tuple[Float[Array, "S"], Float[Array, "S"]]:
        fixed = jax.lax.stop_gradient(logits)
        return token_logprobs(logits, ids, spec.temperature), token_entropy(fixed, spec.temperature)

    logprobs, entropy = read_chunks(
        read,
        hidden[:, -length - 1 : -1],
        batch.ids[:, -length:],
        partial(output_logits, spec.policy, params["policy"]),
    )
    values = apply_value_model(spec.value, params["value"], batch.ids, batch.mask)[:, -length - 1 : -1]

    mask, tokens = batch.response_mask, jnp.sum(batch.response_mask)
    # Off the mask the old log-probs are 0: an unmasked ratio there could overflow and poison the gradient.
    logprobs = jnp.where(mask, logprobs, 0.0)
    policy_losses = jax.vmap(partial(clipped_policy_loss, clip=spec.clip))(
        logprobs=logprobs, old_logprobs=batch.logprobs, advantages=batch.advantages
    )
    value_losses = jax.vmap(partial(clipped_value_loss, clip=spec.value_clip))(
        values=values, old_values=batch.values, returns=batch.returns
    )
    policy_loss, value_loss = masked_sum(policy_losses, mask), masked_sum(value_losses, mask)
    log_ratio = logprobs - batch.logprobs
    clipped = (jnp.abs(jnp.exp(log_ratio) - 1.0) > spec.clip).astype(logprobs.dtype)
    metrics = {
        "policy_loss": (policy_loss, tokens),
        "value_loss": (value_loss, tokens),
        "clip_fraction": (masked_sum(clipped, mask), tokens),
        "approx_kl": (0.5 * masked_sum(log_ratio**2, mask), tokens),
        "entropy": (masked_sum(entropy, mask), tokens),
    }
    return LossSums(policy_loss + spec.value_coefficient * value_loss, tokens, metrics)


def rollout_metrics(rollout: Rollout, returns: Float[Array, "N R"], eos_id: int) -> Metrics:
    """What a rollout says of the policy that made it; ``kl`` is the k1 estimate in nats per response."""
    mask = rollout.response_mask
    ended = jnp.any((rollout.response_ids == eos_id) & mask, axis=1)
    centred = returns - masked_mean(returns, mask)
    residual = masked_mean((returns - rollout.values) ** 2, mask)
    spread = {} if rollout.spread is None else {"reward.spread": jnp.mean(rollout.spread)}
    return spread | {
        "reward.mean": jnp.mean(rollout.raw_scores),
        "reward.std": jnp.std(rollout.raw_scores),
        "score.mean": jnp.mean(rollout.scores),
        "kl": jnp.mean(jnp.sum(jnp.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0), axis=1)),
        "length": jnp.mean(jnp.sum(mask, axis=1)),
        "eos_fraction": jnp.mean(ended),
        "explained_variance": 1.0 - residual / jnp.maximum(masked_mean(centred**2, mask), 1e-8),
    }


def update(
    spec: PPOSpec,
    optimizer: optax.GradientTransformation,
    eos_id: int,
    state: TrainState,
    rollout: Rollout,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One PPO iteration on a rollout; ``state.params`` holds ``policy`` and ``value``, ``extra`` ``kl_coefficient``.

    Under ``axis_name`` each device first gathers the rollout, so that whitening and minibatches are those of one
    device, and then works on its share of every minibatch.
    """
    if axis_name is not None:
        rollout = jax.lax.all_gather(rollout, axis_name, tiled=True)
    beta = state.extra["kl_coefficient"]
    advantages, returns = targets(spec, rollout, beta)
    episodes = Episodes(
        ids=jnp.concatenate([rollout.prompt_ids, rollout.response_ids], axis=1),
        mask=jnp.concatenate([rollout.prompt_mask, rollout.response_mask], axis=1),
        response_mask=rollout.response_mask,
        logprobs=rollout.logprobs,
        values=rollout.values,
        advantages=advantages,
        returns=returns,
    )
    count = rollout.scores.shape[0]

    def minibatch(carry: tuple[Params, optax.OptState], rows: Int[Array, "M"]) -> tuple[Any, Metrics]:
        if axis_name is not None:
            share = rows.shape[0] // jax.lax.axis_size(axis_name)
            rows = jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(axis_name) * share, share)
        batch = jax.tree.map(lambda leaf: leaf[rows], episodes)
        params, opt_state, metrics = gradient_step(
            partial(loss_sums, spec), optimizer, *carry, batch, axis_name, microbatches=spec.microbatches
        )
        return (params, opt_state), metrics

    epoch_keys = jax.random.split(step_keys(state)[1], spec.epochs)
    orders = jax.vmap(lambda key: jax.random.permutation(key, count))(epoch_keys).reshape(
        spec.epochs * spec.minibatches, count // spec.minibatches
    )
    (params, opt_state), metrics = jax.lax.scan(minibatch, (state.params, state.opt_state), orders)

    metrics = {name: jnp.mean(values) for name, values in metrics.items()}
    metrics |= rollout_metrics(rollout, returns, eos_id) | {"kl_coefficient": beta}
    if spec.kl.controller == "adaptive":
        adapted = adapt_kl_coefficient(
            coefficient=beta, kl=metrics["kl"], target=spec.kl.target, episodes=count, horizon=spec.kl.horizon
        )
        # In float64 the divergence is wider than the coefficient: another type in the state would compile anew.
        beta = adapted.astype(beta.dtype)
    extra = {**state.extra, "kl_coefficient": beta}
    return TrainState(state.step + 1, params, opt_state, state.key, extra), metrics
