"""Ensembles of reward models: M whole models, or one decoder with M heads."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.decoder import init_decoder
from rlhf_jax.models.heads import apply_to_last, init_scalar_head, read_reward
from rlhf_jax.models.kernels import kernel_of
from rlhf_jax.models.spec import ONE_MODEL, DecoderSpec, EnsembleSpec
from rlhf_jax.types import Params

# The stream of member keys of a stage's key, away from those that the key itself is split into.
MEMBERS = 2**32 - 2


def member_keys(key: jax.Array, members: int) -> jax.Array:
    """A key for each member; that of the first is ``key`` itself, so that member 0 is the single model of that key."""
    others = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, MEMBERS)))(jnp.arange(1, members))
    return jnp.concatenate([key[None], others])


def init_reward_model(spec: DecoderSpec, key: jax.Array, ensemble: EnsembleSpec = ONE_MODEL) -> Params:
    """A fresh decoder with a scalar head; of an ensemble, with its members along a leading axis.

    Of ``heads`` only the head has that axis, (M, D), each head from the key of its own member; of ``models``
    every leaf.
    """
    if ensemble.members == 1:
        return _init_scored(spec, key)
    keys = member_keys(key, ensemble.members)
    if ensemble.kind == "models":
        return jax.vmap(partial(_init_scored, spec))(keys)
    head_keys = jax.vmap(lambda one: jax.random.split(one)[1])(keys)
    decoder = init_decoder(spec, jax.random.split(key)[0])
    return {"decoder": decoder, "head": jax.vmap(partial(init_scalar_head, spec))(head_keys)}


def _init_scored(spec: DecoderSpec, key: jax.Array) -> Params:
    key_decoder, key_head = jax.random.split(key)
    return {"decoder": init_decoder(spec, key_decoder), "head": init_scalar_head(spec, key_head)}


def head_of(params: Params) -> Params:
    """The head of a reward model, or the heads: what learns where the decoder stays as it is."""
    return {"head": params["head"]}


def with_decoder(params: Params, decoder: Params, ensemble: EnsembleSpec) -> Params:
    """The reward model with ``decoder`` in place of its own; of ``models``, in place of every member's."""
    if ensemble.members > 1 and ensemble.kind == "models":
        decoder = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (ensemble.members, *leaf.shape)), decoder)
    return {**params, "decoder": decoder}


def apply_reward_members(
    spec: DecoderSpec,
    ensemble: EnsembleSpec,
    params: Params,
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    bounded: bool,
) -> Float[Array, "M B"]:
    """Reward of each row by every member, as in ``apply_reward_model``; one row of a single model."""
    return rewards_by_members(
        spec, ensemble, params, lambda decoder: apply_to_last(spec, decoder, ids, mask, mask), bounded=bounded
    )


def rewards_by_members(
    spec: DecoderSpec,
    ensemble: EnsembleSpec,
    params: Params,
    last_of: Callable[[Params], Float[Array, "B D"]],
    *,
    bounded: bool,
) -> Float[Array, "M B"]:
    """Rewards read from the final hidden states of last tokens, which ``last_of`` finds by a decoder's parameters."""
    if ensemble.members > 1 and ensemble.kind == "models":
        # cuDNN's kernel has no rule by which rows of several models would be one batch under one mask.
        def one(member: Params) -> Float[Array, "B"]:
            return read_reward(member["head"], last_of(member["decoder"]), bounded=bounded)

        return jax.lax.map(one, params) if kernel_of(spec) == "cudnn" else jax.vmap(one)(params)
    return read_members(ensemble, params["head"], last_of(params["decoder"]), bounded=bounded)


def read_members(
    ensemble: EnsembleSpec, heads: Params, last: Float[Array, "B D"], *, bounded: bool
) -> Float[Array, "M B"]:
    """What the heads on one decoder say of the final hidden states of last tokens, as in ``apply_reward_members``."""
    if ensemble.members == 1:
        return read_reward(heads, last, bounded=bounded)[None]
    return jax.vmap(lambda head: read_reward(head, last, bounded=bounded))(heads)


def representative(params: Params, ensemble: EnsembleSpec) -> Params:
    """One reward model to start another network from: the first of ``models``; of ``heads``, the mean of the heads."""
    if ensemble.members == 1:
        return params
    if ensemble.kind == "models":
        return jax.tree.map(lambda leaf: leaf[0], params)
    return {**params, "head": jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), params["head"])}
