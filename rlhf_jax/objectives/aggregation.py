"""The rewards of M ensemble members to one reward, and how far the members are apart.

The first three after Coste et al. 2023 (arXiv 2310.02743): mean, worst-case and uncertainty-weighted optimisation.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Aggregation = Literal["mean", "worst", "uncertainty", "lower"]


def mean(members: Float[Array, "M *S"]) -> Float[Array, "*S"]:
    """The mean over members."""
    return jnp.mean(members, axis=0)


def worst(members: Float[Array, "M *S"]) -> Float[Array, "*S"]:
    """The smallest reward that any member gives."""
    return jnp.min(members, axis=0)


def uncertainty_weighted(members: Float[Array, "M *S"], *, penalty: float) -> Float[Array, "*S"]:
    """Mean - penalty x population variance; the penalty is per unit of reward."""
    return mean(members) - penalty * jnp.var(members, axis=0)


def lower_bound(members: Float[Array, "M *S"], *, penalty: float) -> Float[Array, "*S"]:
    """Mean - penalty x population standard deviation; the penalty is a number of deviations.

    With M members no mean lies more than sqrt(M - 1) deviations above the worst of them.
    """
    return mean(members) - penalty * spread(members)


def spread(members: Float[Array, "M *S"]) -> Float[Array, "*S"]:
    """Population standard deviation over members, in units of reward; 0 for one member."""
    return jnp.std(members, axis=0)


def aggregate(members: Float[Array, "M *S"], how: Aggregation, penalty: float) -> Float[Array, "*S"]:
    """One of the above by name; ``mean`` and ``worst`` have no use for the penalty."""
    if how == "mean":
        return mean(members)
    if how == "worst":
        return worst(members)
    if how == "uncertainty":
        return uncertainty_weighted(members, penalty=penalty)
    return lower_bound(members, penalty=penalty)
