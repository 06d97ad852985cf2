"""What PPO and its relatives aim at, on a fixed rollout of ragged episodes, from the definitions in float64."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import ppo
from rlhf_jax.learners.ppo_targets import RETURNS, SCORES, running_moments
from rlhf_jax.objectives.divergences import ForwardKL
from rlhf_jax.objectives.regularisers import Regulariser
from rlhf_jax.types import Rollout
from tests.learners import tiny

BETA, GROUP = 0.3, 4


def found(spec: ppo.PPOSpec, rollout: Rollout, extra: dict[str, Any] | None = None) -> ppo.Targets:
    return jax.jit(partial(ppo.targets, spec))(rollout, jnp.float32(BETA), extra or {})


def in_float64(rollout: Rollout) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), rollout)


def totals() -> tuple[np.ndarray, np.ndarray]:
    """(score less beta times the log-ratio of each response, mask)."""
    data = in_float64(tiny.fixed_rollout(0))
    mask = data.response_mask > 0
    return data.scores - BETA * np.sum((data.logprobs - data.ref_logprobs) * mask, axis=1), mask


@pytest.mark.parametrize("advantage", ["rloo", "dr_grpo", "grpo"])
def test_groups_compare_scores_less_the_price_of_the_whole_response(advantage: str) -> None:
    """Also the definition of RLOO with KL in the score: r - beta sum log(pi / ref), less the mean of the others."""
    aims = found(tiny.ppo_spec(advantage=advantage, group=GROUP, gamma=1.0, value=None), tiny.fixed_rollout(0))
    total, mask = totals()
    groups = total.reshape(-1, GROUP)
    centred = groups - groups.mean(axis=1, keepdims=True)
    expected = {
        "rloo": centred * GROUP / (GROUP - 1),
        "dr_grpo": centred,
        "grpo": centred / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-4),
    }[advantage]
    np.testing.assert_allclose(aims.advantages, np.where(mask, expected.reshape(-1, 1), 0.0), atol=2e-5)
    assert aims.returns is aims.value_targets is None


def test_reinforce_pp_is_of_mean_0_and_variance_1_over_all_tokens() -> None:
    total, mask = totals()
    for baseline in (False, True):
        spec = tiny.ppo_spec(advantage="reinforce_pp", group=GROUP, group_baseline=baseline, gamma=1.0, value=None)
        data = in_float64(tiny.fixed_rollout(0))
        price = -BETA * (data.logprobs - data.ref_logprobs) * mask
        to_go = data.scores[:, None] + np.cumsum(price[:, ::-1], axis=1)[:, ::-1]
        if baseline:
            to_go -= total.reshape(-1, GROUP).mean(axis=1).repeat(GROUP)[:, None]
        kept = to_go[mask]
        expected = np.where(mask, (to_go - kept.mean()) / np.sqrt(kept.var() + 1e-8), 0.0)
        np.testing.assert_allclose(found(spec, tiny.fixed_rollout(0)).advantages, expected, atol=2e-5)


def by_loops(rewards: np.ndarray, values: np.ndarray, slots: np.ndarray, gamma: float, lambda_: float) -> np.ndarray:
    advantages = np.zeros_like(rewards)
    for row, length in enumerate(slots.sum(axis=1)):
        later = 0.0
        for slot in reversed(range(length)):
            following = values[row, slot + 1] if slot + 1 < length else 0.0
            later = rewards[row, slot] + gamma * following - values[row, slot] + gamma * lambda_ * later
            advantages[row, slot] = later
    return advantages


def test_every_rule_of_rewards_and_values_at_once() -> None:
    """Scaled by the running deviation, clipped, paid one slot late, whitened with their mean, values in units."""
    rules = ppo.RewardRules(score_at="after", scale=True, clip=1.2, whiten=True)
    spec = tiny.ppo_spec(rewards=rules, normalize_value=True, gamma=0.97, lambda_=0.9, advantage_clip=1.5)
    values = jnp.asarray(np.random.default_rng(5).normal(size=(tiny.EPISODES, tiny.RESPONSE)), jnp.float32)
    extra: dict[str, Any] = running_moments(spec)
    scores, returns = [], []
    for seed in range(2):
        rollout = dataclasses.replace(tiny.fixed_rollout(seed), values=values)
        data, mask = in_float64(rollout), np.asarray(rollout.response_mask)
        mean, deviation = (np.mean(returns), np.std(returns)) if returns else (0.0, 1.0)
        estimates = mean + deviation * data.values
        aims = found(spec, rollout, extra)

        scores += list(data.scores)
        paid = np.clip(data.scores / np.std(scores), -1.2, 1.2)
        rewards = -BETA * (data.logprobs - data.ref_logprobs) * mask
        lengths = mask.sum(axis=1)
        slots = np.arange(tiny.RESPONSE) < np.minimum(lengths + 1, tiny.RESPONSE)[:, None]
        rewards[np.arange(tiny.EPISODES), np.minimum(lengths, tiny.RESPONSE - 1)] += paid
        kept = rewards[slots]
        rewards = np.where(slots, (rewards - kept.mean()) / np.sqrt(kept.var() + 1e-8) + kept.mean(), 0.0)
        advantages = by_loops(rewards, estimates, slots, 0.97, 0.9)
        expected = np.where(slots, advantages + estimates, 0.0)
        returns += list(expected[slots])
        np.testing.assert_allclose(aims.returns, expected, atol=1e-4)
        units = (expected - np.mean(returns)) / np.std(returns)
        np.testing.assert_allclose(np.asarray(aims.value_targets)[slots], units[slots], atol=1e-4)
        learned = advantages[mask]
        whitened = np.where(mask, (advantages - learned.mean()) / np.sqrt(learned.var() + 1e-8), 0.0)
        np.testing.assert_allclose(aims.advantages * mask, np.clip(whitened, -1.5, 1.5), atol=1e-4)
        extra = aims.extra
    assert float(extra[SCORES].seen) == 2 * tiny.EPISODES
    assert float(extra[RETURNS].seen) == len(returns)


def test_unfinished_episodes_leave_the_means_but_not_their_group() -> None:
    spec = tiny.ppo_spec(mask_unfinished=True, lambda_=0.9)
    rollout = tiny.fixed_rollout(0)
    finished = jnp.arange(tiny.EPISODES) % 3 > 0
    aims = found(spec, dataclasses.replace(rollout, finished=finished))
    kept = np.asarray(rollout.response_mask & finished[:, None])
    assert np.asarray(aims.advantages)[kept].mean() == pytest.approx(0, abs=1e-6)
    assert np.asarray(aims.advantages)[kept].std() == pytest.approx(1, rel=1e-4)
    group = tiny.ppo_spec(advantage="dr_grpo", group=GROUP, mask_unfinished=True, value=None)
    total, mask = totals()
    centred = total.reshape(-1, GROUP) - total.reshape(-1, GROUP).mean(axis=1, keepdims=True)
    some = found(group, dataclasses.replace(rollout, finished=finished)).advantages
    np.testing.assert_allclose(np.asarray(some)[kept], np.where(mask, centred.reshape(-1, 1), 0)[kept], atol=2e-5)


def test_k1_of_another_divergence_charges_a_token_its_own_derivative() -> None:
    """Forward KL, u = pi / ref: -log(u) / u in the return of all before, f'(u) - f'(1) = 1 - 1 / u in its own."""
    kl = ppo.KLSpec(coefficient=BETA, regulariser=Regulariser(ForwardKL()))
    spec = tiny.ppo_spec(kl=kl, whiten_advantages=False, gamma=1.0, lambda_=1.0)
    aims, data = found(spec, tiny.fixed_rollout(0)), in_float64(tiny.fixed_rollout(0))
    mask = data.response_mask > 0
    log_u = (data.logprobs - data.ref_logprobs) * mask
    paid = -log_u * np.exp(-log_u)
    later = np.cumsum(paid[:, ::-1], axis=1)[:, ::-1] - paid
    own = 1.0 - np.exp(-log_u)
    expected = np.where(mask, data.scores[:, None] - BETA * (later + own) - data.values, 0.0)
    np.testing.assert_allclose(aims.advantages, expected, atol=2e-5)
    returns = np.where(mask, data.scores[:, None] - BETA * (later + paid), 0.0)
    np.testing.assert_allclose(aims.returns, returns, atol=2e-5)
