"""Several reward models trained at once, each on its own loss: what is summed over members mixes no gradients.

Online bagging as in Oza and Russell 2001: with a key for it, a member counts each list Poisson(1) times.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rlhf_jax.learners.step import LossSums
from rlhf_jax.objectives.aggregation import spread
from rlhf_jax.objectives.masked import masked_sum
from rlhf_jax.types import Params, RankBatch

Tree = TypeVar("Tree")
MemberRewards: TypeAlias = Callable[[Params, RankBatch], Float[Array, "M B K"]]
# (rewards (B, K) of one member, batch, how often each list counts (B,) or None for once) -> its loss
MemberLoss: TypeAlias = Callable[[Any, RankBatch, Any], LossSums]


def list_counts(key: jax.Array, members: int, index: Int[Array, "B"]) -> Float[Array, "M B"]:
    """How often each member counts each list: Poisson(1), drawn from (key, member, place of the list) alone."""

    def count(member: Int[Array, ""], place: Int[Array, ""]) -> Float[Array, ""]:
        own = jax.random.fold_in(jax.random.fold_in(key, member), place)
        return jax.random.poisson(own, 1.0).astype(jnp.float32)

    return jax.vmap(jax.vmap(count, (None, 0)), (0, None))(jnp.arange(members), index)


def loss_sums(
    rewards_of: MemberRewards, loss_of: MemberLoss, key: jax.Array | None, params: Params, batch: RankBatch
) -> LossSums:
    """The members' losses, summed over members; ``metrics`` are their means, ``loss`` among them, and the spread.

    Every member is divided by the weight of the batch, resampled (a ``key``) or not: resampling changes what a list
    counts for, in the mean not at all. ``spread`` is the mean over responses of the standard deviation over members.
    """
    rewards = rewards_of(params, batch)
    if key is None:
        sums = jax.vmap(lambda own: loss_of(own, batch, None))(rewards)
    else:
        counts = list_counts(key, len(rewards), batch.index).astype(rewards.dtype)
        sums = jax.vmap(lambda own, count: loss_of(own, batch, count))(rewards, counts)
    # The members share the lists, hence the weight, which may be an integer.
    metrics = {
        name: (jnp.mean(total, axis=0), weight[0])
        for name, (total, weight) in {"loss": (sums.numerator, sums.weight), **sums.metrics}.items()
    }
    apart = spread(jax.lax.stop_gradient(rewards))
    metrics["spread"] = (masked_sum(apart, batch.response_mask), jnp.sum(batch.response_mask))
    return LossSums(jnp.sum(sums.numerator), sums.weight[0], metrics)


def per_member(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer of whole models along a leading axis: each has its moments, and is clipped by its own norm."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


def mean_norm(tree: Any) -> Float[Array, ""]:
    """The global norm of each member's part of a tree, mean over members."""
    return jnp.mean(jax.vmap(optax.tree.norm)(tree))
