"""What a rollout says of the policy that made it."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.generation import ended
from rlhf_jax.learners.ppo_spec import PPOSpec
from rlhf_jax.learners.ppo_targets import targets, valued_slots, values_of
from rlhf_jax.learners.step import Metrics
from rlhf_jax.objectives.divergences import ReverseKL
from rlhf_jax.objectives.masked import masked_mean
from rlhf_jax.objectives.regularisers import Regulariser, k1, k2, k3
from rlhf_jax.types import Rollout


def divergence_metrics(regulariser: Regulariser, rollout: Rollout) -> Metrics:
    """Estimates of KL(policy || reference) on the policy's own samples, in nats per response, mean over responses.

    With l the log-ratio of a token: k1 = l, k2 = l^2 / 2, k3 = e^-l - 1 + l (Schulman 2020), summed over tokens.
    ``divergence`` is what is priced, in its own units, by its own estimate (of tokens or of the response).
    """
    mask = rollout.response_mask
    log_ratio = jnp.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0)

    def per_response(values: Float[Array, "N R"]) -> Float[Array, ""]:
        return jnp.mean(jnp.sum(values, axis=1))

    if rollout.divergences is not None:
        priced = per_response(jnp.where(mask, rollout.divergences, 0.0))
    else:
        whole = regulariser.level == "sequence"
        ratios = jnp.sum(log_ratio, axis=1, keepdims=True) if whole else log_ratio
        estimate = {"k1": k1, "k2": k2, "k3": k3}[regulariser.estimator]
        priced = per_response(estimate(regulariser.divergence, ratios))
    found = {
        "kl": per_response(log_ratio),
        "kl.k2": per_response(0.5 * log_ratio**2),
        "kl.k3": per_response(jnp.expm1(-log_ratio) + log_ratio),
        "divergence": priced,
    }
    if rollout.divergences is not None and isinstance(regulariser.divergence, ReverseKL):
        found["kl.exact"] = priced
    return found


def value_metrics(values: Float[Array, "N R"], returns: Float[Array, "N R"], mask: Bool[Array, "N R"]) -> Metrics:
    """How well the values foresaw the returns; both in units of reward."""
    centred = returns - masked_mean(returns, mask)
    residual = masked_mean((returns - values) ** 2, mask)
    return {
        "explained_variance": 1.0 - residual / jnp.maximum(masked_mean(centred**2, mask), 1e-8),
        "value.rmse": jnp.sqrt(residual),
    }


def rollout_metrics(regulariser: Regulariser, rollout: Rollout, eos_id: int) -> Metrics:
    """Rewards, divergence and length of a rollout; ``kl`` is the k1 estimate in nats per response."""
    spread = {} if rollout.spread is None else {"reward.spread": jnp.mean(rollout.spread)}
    parts = {f"reward.part.{name}": jnp.mean(part) for name, part in (rollout.parts or {}).items()}
    return (
        spread
        | parts
        | divergence_metrics(regulariser, rollout)
        | {
            "reward.mean": jnp.mean(rollout.raw_scores),
            "reward.std": jnp.std(rollout.raw_scores),
            "score.mean": jnp.mean(rollout.scores),
            "score.std": jnp.std(rollout.scores),
            "length": jnp.mean(jnp.sum(rollout.response_mask, axis=1)),
            "eos_fraction": jnp.mean(ended(rollout, eos_id)),
        }
    )


def held_out_metrics(spec: PPOSpec, eos_id: int, rollout: Rollout, extra: dict[str, Any]) -> Metrics:
    """``rollout_metrics`` and, with a value model, how well it foresees; ``extra`` is the state's."""
    metrics = rollout_metrics(spec.kl.regulariser, rollout, eos_id)
    returns = None if spec.value is None else targets(spec, rollout, extra["kl_coefficient"], extra).returns
    if returns is not None:
        values = values_of(spec, rollout, extra)
        metrics |= value_metrics(values, returns, valued_slots(spec, rollout.response_mask))
    return metrics
