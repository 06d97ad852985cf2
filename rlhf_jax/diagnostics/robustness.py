"""Does a reward stay where it is when a text changes and its meaning does not?"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from rlhf_jax.diagnostics.pairs import Pairs


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Rewards before and after one change of every text.

    ``shift``: mean |change of reward| over the standard deviation of the rewards before (divisor the number of
    responses), 0 where nothing moves. ``drift``: the same of the signed change: what the change is worth to whoever
    optimises against the reward. ``flips``: share of pairs whose order by reward turns round (a tie that comes or goes
    counts one half); None without pairs. ``changed``: share of texts that the change altered.
    """

    shift: float
    drift: float
    flips: float | None
    changed: float


def robustness(
    before: Float[np.ndarray, "N K"],
    after: Float[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
    pairs: Pairs,
    changed: Bool[np.ndarray, "N K"],
) -> Robustness:
    """Compare the rewards of the same responses, at least one; ``changed`` says which texts are others than before."""
    spread = float(before[mask].std())
    moves = (after - before)[mask]
    unit = spread if spread > 0 else 1.0  # all rewards equal: in units of reward
    signs = [np.sign(better - worse) for better, worse in (pairs.of(before), pairs.of(after))]
    return Robustness(
        shift=float(np.abs(moves).mean()) / unit,
        drift=float(moves.mean()) / unit,
        flips=float(np.abs(signs[0] - signs[1]).mean()) / 2 if len(pairs) else None,
        changed=float(changed[mask].mean()),
    )
