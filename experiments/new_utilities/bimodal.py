"""A law of one's own: two thirds of the rewards low, one third high, few between.

One line launches it: ``--config.reward.utility.name=experiments/new_utilities/bimodal.py:Bimodal``.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.objectives.utilities import LimitLaw, Quantile


@dataclasses.dataclass(frozen=True)
class Bimodal(Quantile):
    """Rewards even in [0, 0.25] and in [0.75, 1], with a thin bridge of 4 % between them."""

    name: ClassVar[str] = "bimodal"

    def quantile(self, p: Float[Array, "*S"]) -> Float[Array, "*S"]:
        return jnp.interp(p, jnp.array([0.0, 0.64, 0.68, 1.0]), jnp.array([0.0, 0.25, 0.75, 1.0]))

    def limit_law(self) -> LimitLaw | None:
        return None
