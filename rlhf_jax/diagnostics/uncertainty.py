"""How unsure a reward model, or an ensemble of them, is of an order. NumPy in, numbers out."""

import numpy as np
from jaxtyping import Float
from scipy.special import entr, expit


def pair_uncertainty(rewards: Float[np.ndarray, "n M"]) -> Float[np.ndarray, "n n"]:
    """Entropy (nats, at most ln 2) of which of two responses is better, by M members together: of the mean over members
    of sigmoid(r_i - r_j). It is high where members see no difference and where they contradict each other.

    Source: predictive entropy; with one member it falls with the distance of the two rewards.
    """
    likely = expit(rewards[:, None] - rewards[None, :]).mean(axis=-1)
    return entr(likely) + entr(1.0 - likely)
