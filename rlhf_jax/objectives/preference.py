"""Direct preference losses on the implicit rewards of ONE prompt's K responses.

Which response was judged better is told by the mask ``better``, better[i, j]: i above j; so that full orders, partial
ones and ties of any length are all trained on the pairs that were compared, their mean: of K = 2 the published loss.
Each term takes gaps of rewards, better minus worse, and is the loss of a pair.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.objectives.masked import masked_mean

Term: TypeAlias = Callable[[Float[Array, "K K"]], Float[Array, "K K"]]


def mean_over_pairs(
    *, rewards: Float[Array, "K"], better: Bool[Array, "K K"], term: Term, margin: Float[Array, ""] | float = 0.0
) -> Float[Array, ""]:
    """Mean of term(r_i - r_j - margin) over the pairs of ``better``; 0 without one. What was not judged may be NaN."""
    judged = jnp.any(better | better.T, axis=1)
    rewards = jnp.where(judged, rewards, 0.0)
    return masked_mean(term(rewards[:, None] - rewards[None, :] - margin), better)


def logistic(gaps: Float[Array, "*S"], smoothing: float = 0.0) -> Float[Array, "*S"]:
    """-(1 - e) log σ(g) - e log σ(-g): DPO (Rafailov et al. 2023, equation 7); with e conservative DPO (Mitchell 2023),
    whose best gap is that of judgements wrong with probability e.
    """
    losses = jax.nn.softplus(-gaps)
    return (1.0 - smoothing) * losses + smoothing * jax.nn.softplus(gaps) if smoothing else losses


def robust(gaps: Float[Array, "*S"], smoothing: float) -> Float[Array, "*S"]:
    """[(1 - e) L(g) - e L(-g)] / (1 - 2 e), L = -log σ: its mean over judgements that are turned round with probability
    e < 1/2 is DPO's loss of the right ones. Not bounded below. Chowdhury et al. 2024 (rDPO), equation (12).
    """
    right, wrong = jax.nn.softplus(-gaps), jax.nn.softplus(gaps)
    return ((1.0 - smoothing) * right - smoothing * wrong) / (1.0 - 2.0 * smoothing)


def squared(gaps: Float[Array, "*S"], beta: float) -> Float[Array, "*S"]:
    """(g - 1 / (2 beta))^2 of gaps of log-ratios in nats: IPO. Azar et al. 2023, equation (17), with tau = beta."""
    return jnp.square(gaps - 0.5 / beta)


def hinge(gaps: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """max(0, 1 - g): SLiC's calibration. Zhao et al. 2023; of beta x log-ratios as in Liu et al. 2023 (RSO)."""
    return jax.nn.relu(1.0 - gaps)


def clipped(gaps: Float[Array, "*S"], bound: float) -> Float[Array, "*S"]:
    """-log σ(clip(g, -bound, bound)); no pull beyond. Huang et al. 2024 (chi-PO), with bound = 2 R_max."""
    return jax.nn.softplus(-jnp.clip(gaps, -bound, bound))


def kahneman_tversky_loss(
    *,
    rewards: Float[Array, "K"],
    baseline: Float[Array, ""] | float,
    good: Float[Array, "K"],
    bad: Float[Array, "K"],
    desirable: float = 1.0,
    undesirable: float = 1.0,
) -> Float[Array, ""]:
    """Mean over verdicts of lambda_D [1 - σ(r - z)] of the good and lambda_U [1 - σ(z - r)] of the bad; 0 without one.

    Rewards and the ``baseline`` z = beta max(0, KL) are in units of beta x nats; ``good[k]`` and ``bad[k]`` count the
    verdicts of each kind on response k. No gradient flows through the baseline. Responses without a verdict may be NaN.
    Source: Ethayarajh et al. 2024 (KTO), equation (8).
    """
    rewards = jnp.where(good + bad > 0, rewards, 0.0) - jax.lax.stop_gradient(baseline)
    losses = desirable * good * jax.nn.sigmoid(-rewards) + undesirable * bad * jax.nn.sigmoid(rewards)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(good + bad), 1.0)


def verdict_counts(
    better: Bool[Array, "K K"], labels: Float[Array, "K"], exists: Bool[Array, "K"]
) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
    """(good, bad) verdicts on each response: its label in [0, 1] and the rest of 1, or, without a label (NaN), the
    comparisons that it won and those that it lost.
    """
    labelled = exists & ~jnp.isnan(labels)
    share = jnp.where(labelled, labels, 0.0)
    won, lost = (jnp.sum(better, axis=axis).astype(labels.dtype) for axis in (1, 0))
    return jnp.where(labelled, share, won), jnp.where(labelled, 1.0 - share, lost)


def unbeaten(better: Bool[Array, "K K"]) -> Bool[Array, "K"]:
    """The responses of a list that beat another and that none beats: of a pair the winner, of tied best ones all."""
    return jnp.any(better, axis=1) & ~jnp.any(better, axis=0)
