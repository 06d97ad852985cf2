"""Which of several points is the best by a figure that each has under several seeds, and how far others are behind."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float

from rlhf_jax.diagnostics.intervals import half_width

Seed = TypeVar("Seed")


@dataclasses.dataclass(frozen=True)
class Objective:
    """A figure of ``summary.json``, and which way is better."""

    metric: str
    direction: Literal["max", "min"]

    def better(self, one: float, other: float) -> float:
        """How much better the first is than the second; below 0 where it is worse."""
        return one - other if self.direction == "max" else other - one


def rank_key(
    objective: Objective, values: Sequence[float] | Float[np.ndarray, "S"], *, failed: bool
) -> tuple[bool, bool, float]:
    """The key of a point by its values, one a seed: of the lowest key the mean is best. Points of which a seed
    ``failed`` come after all others, for the mean over the rest flatters them; those without a value are last.
    """
    return not len(values), failed, objective.better(0.0, float(np.mean(values))) if len(values) else 0.0


def behind(
    objective: Objective, own: Mapping[Seed, float], best: Mapping[Seed, float]
) -> tuple[float, float | None] | None:
    """How much worse a point is than the best: mean over the seeds that both have, and half of its 95 % interval.

    None without such a seed. Seeds are compared with themselves: what one does to all points alike widens no interval.
    """
    gaps = [objective.better(best[seed], own[seed]) for seed in best if seed in own]
    return (float(np.mean(gaps)), half_width(gaps)) if gaps else None
