"""The loss of a minibatch of episodes: clipped surrogate, value loss, and what is added to them."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.learners.ppo_spec import PPOSpec
from rlhf_jax.learners.step import Largest, LossSums
from rlhf_jax.models import DecoderSpec, apply_decoder, apply_unpadded, output_logits, read_values
from rlhf_jax.objectives.exact_divergence import apart, divergence_of_logits, side_by_side
from rlhf_jax.objectives.likelihood import chunked_logprobs, read_chunks, token_law
from rlhf_jax.objectives.masked import masked_sum
from rlhf_jax.objectives.ppo import clipped_policy_loss, clipped_value_loss, mean_weights
from rlhf_jax.objectives.regularisers import loss_penalty
from rlhf_jax.types import Params, TokenBatch
from rlhf_jax.unpadding import ALL, Room, line_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episodes:
    """What a minibatch needs: whole rows, and the targets computed once from the whole rollout.

    ``response_mask`` marks the tokens that the policy learns from, ``value_mask`` the slots that the value model does,
    None where they are the same. Of a minibatch ``weights``, ``row_weights`` and ``value_weights`` make its means, None
    where all tokens count alike; ``pretraining`` are packed rows and ``pretraining_weights`` those of their tokens,
    beside which there are ``row_weights`` in any case.
    """

    ids: Int[Array, "N T"]
    mask: Bool[Array, "N T"]
    response_mask: Bool[Array, "N R"]
    logprobs: Float[Array, "N R"]
    ref_logprobs: Float[Array, "N R"]
    values: Float[Array, "N R"] | Any
    advantages: Float[Array, "N R"]
    returns: Float[Array, "N R"] | Any
    value_mask: Bool[Array, "N R"] | None = None
    weights: Float[Array, "N R"] | None = None
    row_weights: Float[Array, "N"] | None = None
    value_weights: Float[Array, "N R"] | None = None
    pretraining: TokenBatch | None = None
    pretraining_weights: Float[Array, "Q S"] | None = None


def with_weights(spec: PPOSpec, batch: Episodes, pretraining: TokenBatch | None) -> Episodes:
    """A whole minibatch with the weights of its means, before it is shared out: each then stays a sum over rows."""
    mask = batch.response_mask
    weights, row_weights = mean_weights(mask, spec.loss_mean)
    total = jnp.sum(row_weights)
    made: dict[str, Any] = {}
    if spec.loss_mean != "tokens":
        made = {"weights": weights, "row_weights": row_weights}
    if batch.value_mask is not None or made:
        slots = mask if batch.value_mask is None else batch.value_mask
        made["value_weights"] = slots * (total / jnp.maximum(jnp.sum(slots), 1))
    if pretraining is not None:
        predicted = pretraining.loss_mask[:, 1:]
        # Where no episode has ended there is nothing to share the weight with: the rows weigh 1 together then.
        row_weights = jnp.where(total > 0, row_weights, 1 / row_weights.shape[0])
        share = jnp.where(total > 0, total, 1.0) / jnp.maximum(jnp.sum(predicted), 1)
        made |= {"row_weights": row_weights, "pretraining": pretraining}
        made["pretraining_weights"] = predicted * (spec.pretraining * share)
    return dataclasses.replace(batch, **made)


def loss_sums(
    spec: PPOSpec,
    params: Params,
    batch: Episodes,
    kl_coefficient: Float[Array, ""] | float = 0.0,
    reference: Params | None = None,
    room: Room = ALL,
) -> LossSums:
    """Clipped surrogate + value_coefficient x clipped value loss + what else is asked for, summed over tokens.

    ``kl_coefficient`` is the price of the divergence as far as it is paid in the loss; ``reference`` is needed where
    that is exact. There is ``room`` for all tokens of the rows.
    """
    length = batch.response_mask.shape[1]
    hidden = apply_unpadded(spec.policy, params["policy"], batch.ids, batch.mask, length, room)
    logprobs, entropy, exact = read_tokens(spec, params["policy"], batch, hidden, reference, room)
    mask, tokens = batch.response_mask, jnp.sum(batch.response_mask)
    # Off the mask the old log-probs are 0: an unmasked ratio there could overflow and poison the gradient.
    logprobs = jnp.where(mask, logprobs, 0.0)
    policy_losses = jax.vmap(partial(clipped_policy_loss, clip=spec.clip, clip_high=spec.clip_high))(
        logprobs=logprobs, old_logprobs=batch.logprobs, advantages=batch.advantages
    )
    weight = tokens if batch.row_weights is None else jnp.sum(batch.row_weights)
    policy_loss = _weighted_sum(policy_losses, batch.weights, mask)
    total = policy_loss
    metrics: dict[str, Any] = {"policy_loss": (policy_loss, weight)}
    if spec.value is not None:
        value_loss = _value_loss(spec, spec.value, params, batch, hidden, room)
        total = policy_loss + spec.value_coefficient * value_loss
        metrics["value_loss"] = (value_loss, weight)
    if spec.kl.regulariser.in_loss:
        penalties = jax.vmap(partial(loss_penalty, spec.kl.regulariser))(
            logprobs=logprobs, ref_logprobs=batch.ref_logprobs, old_logprobs=batch.logprobs, mask=mask, exact=exact
        )
        penalty = _weighted_sum(penalties, batch.weights, mask)
        total += kl_coefficient * penalty
        metrics["kl_loss"] = (penalty, weight)
    if spec.entropy:
        total -= spec.entropy * _weighted_sum(entropy, batch.weights, mask)
    if batch.pretraining is not None:
        likelihood = _pretraining_loss(spec, params, batch)
        total += likelihood
        metrics["pretraining_loss"] = (likelihood / spec.pretraining, weight)
    log_ratio = logprobs - batch.logprobs
    ratio = jnp.exp(log_ratio)
    metrics |= {
        "ratio.max": Largest(jnp.max(jnp.where(mask, ratio, -jnp.inf))),
        # Its negative, until the updates of an iteration are put together.
        "ratio.min": Largest(jnp.max(jnp.where(mask, -ratio, -jnp.inf))),
        "clip_fraction": (masked_sum(_clipped(spec, ratio).astype(logprobs.dtype), mask), tokens),
        "approx_kl": (0.5 * masked_sum(log_ratio**2, mask), tokens),
        "entropy": (masked_sum(entropy, mask), tokens),
    }
    return LossSums(total, weight, metrics)


def read_tokens(
    spec: PPOSpec,
    policy: Params,
    batch: Episodes,
    hidden: Float[Array, "N S D"],
    reference: Params | None,
    room: Room,
) -> tuple[Float[Array, "N R"], Float[Array, "N R"], Float[Array, "N R"] | None]:
    """(log-probability, entropy, exact divergence) at each response slot; the last without ``reference`` None.

    The entropy has a gradient if it is paid for. The reference's hidden states are made anew in every update: one more
    forward pass, but nothing of the size of a hidden state is kept for the rollout, and never the logits of all tokens.
    """
    length, ids = batch.response_mask.shape[1], batch.ids
    before = slice(-length - 1, -1)  # the tokens that response tokens are predicted from
    logits_of = partial(output_logits, spec.policy, policy)
    read_all = partial(read_chunks, line=line_of(batch.response_mask, room.responses))

    def read(logits: Float[Array, "S V"], ids: Int[Array, "S"]) -> tuple[Float[Array, "S"], Float[Array, "S"]]:
        logprob, entropy = token_law(logits, ids, spec.temperature)
        return logprob, entropy if spec.entropy else jax.lax.stop_gradient(entropy)

    if reference is None:
        return *read_all(read, hidden[:, before], ids[:, -length:], logits_of), None

    def read_both(logits: Float[Array, "S W"], ids: Int[Array, "S"]) -> tuple[Float[Array, "S"], ...]:
        mine, other = apart(logits)
        divergence = spec.kl.regulariser.divergence
        return *read(mine, ids), divergence_of_logits(divergence, mine, other, spec.temperature)

    other = apply_unpadded(spec.policy, reference, ids, batch.mask, length, room)
    both, joint = side_by_side(
        hidden[:, before], other[:, before], logits_of, partial(output_logits, spec.policy, reference)
    )
    logprobs, entropy, exact = read_all(read_both, both, ids[:, -length:], joint)
    return logprobs, entropy, exact


def _clipped(spec: PPOSpec, ratio: Float[Array, "*S"]) -> Bool[Array, "*S"]:
    if spec.clip_high is None:
        return jnp.abs(ratio - 1.0) > spec.clip
    return (ratio < 1.0 - spec.clip) | (ratio > 1.0 + spec.clip_high)


def _value_loss(
    spec: PPOSpec, decoder: DecoderSpec, params: Params, batch: Episodes, hidden: Float[Array, "N S D"], room: Room
) -> Float[Array, ""]:
    """Half the clipped squared error, weighted as the policy's loss is; ``hidden`` are the policy's own states."""
    length = batch.response_mask.shape[1]
    own = params["value"]
    if not spec.shared:
        hidden = apply_unpadded(decoder, own["decoder"], batch.ids, batch.mask, length, room)
    values = read_values(own["head"], hidden)
    losses = jax.vmap(partial(clipped_value_loss, clip=spec.value_clip))(
        values=values[:, -length - 1 : -1], old_values=batch.values, returns=batch.returns
    )
    slots = batch.response_mask if batch.value_mask is None else batch.value_mask
    return _weighted_sum(losses, batch.value_weights, slots)


def _pretraining_loss(spec: PPOSpec, params: Params, batch: Episodes) -> Float[Array, ""]:
    """Negative log-likelihood of demonstrations in nats, at temperature 1, with the weights of the minibatch.

    InstructGPT's pretraining mix, Ouyang et al. 2022, equation (2).
    """
    rows: Any = batch.pretraining
    hidden = apply_decoder(spec.policy, params["policy"], rows.ids, rows.positions, rows.segments)
    logprobs = chunked_logprobs(hidden[:, :-1], rows.ids[:, 1:], partial(output_logits, spec.policy, params["policy"]))
    return -_weighted_sum(logprobs, batch.pretraining_weights, rows.loss_mask[:, 1:])


def _weighted_sum(
    x: Float[Array, "N R"], weights: Float[Array, "N R"] | None, mask: Bool[Array, "N R"]
) -> Float[Array, ""]:
    return masked_sum(x, mask) if weights is None else masked_sum(weights * x, mask)
