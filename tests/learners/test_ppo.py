"""PPO: targets by loops, the first minibatch, a bandit with a known answer, the KL price and its controller."""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation import RolloutSpec, SamplingSpec, complete, response_logprobs
from rlhf_jax.learners import ppo
from rlhf_jax.learners.optimizer import OptimizerSpec
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import DecoderSpec, init_decoder, init_scalar_head
from rlhf_jax.types import PromptBatch, Rollout, TrainState
from tests.learners import tiny


def targets_by_loops(spec: ppo.PPOSpec, rollout: Rollout, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Rewards, then advantages as explicit double sums, then whitening: in float64, from the definitions."""
    data = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), rollout)
    advantages, returns = np.zeros_like(data.values), np.zeros_like(data.values)
    for row in range(tiny.EPISODES):
        length = int(data.response_mask[row].sum())
        rewards = -beta * (data.logprobs[row] - data.ref_logprobs[row])
        rewards[length - 1] += data.scores[row]
        for t in range(length):
            for later in range(t, length):
                following = data.values[row, later + 1] if later + 1 < length else 0.0
                delta = rewards[later] + spec.gamma * following - data.values[row, later]
                advantages[row, t] += (spec.gamma * spec.lambda_) ** (later - t) * delta
            returns[row, t] = advantages[row, t] + data.values[row, t]
    if spec.whiten_advantages:
        kept = advantages[data.response_mask > 0]
        advantages = np.where(data.response_mask > 0, (advantages - kept.mean()) / np.sqrt(kept.var() + 1e-8), 0.0)
    return advantages, returns


@pytest.mark.parametrize("whiten", [False, True])
def test_targets_are_those_of_the_definitions(whiten: bool) -> None:
    spec = tiny.ppo_spec(whiten_advantages=whiten, gamma=0.97, lambda_=0.9)
    rollout = tiny.fixed_rollout(0)
    found = jax.jit(partial(ppo.targets, spec))(rollout, jnp.float32(0.3))
    advantages, returns = targets_by_loops(spec, rollout, 0.3)
    np.testing.assert_allclose(found.advantages, advantages, atol=2e-5)
    np.testing.assert_allclose(found.returns, returns, atol=2e-5)


def updated(spec: ppo.PPOSpec, optimizer: Any, state: TrainState, rollout: Rollout) -> tuple[TrainState, dict]:
    return jax.jit(partial(ppo.update, spec, optimizer, tiny.EOS))(state, rollout)


def exact_rollout(spec: ppo.PPOSpec) -> Rollout:
    """The fixed rollout as if sampled by the policy itself."""
    rollout = tiny.fixed_rollout(0)
    logprobs = jax.jit(
        partial(response_logprobs, spec.policy, response_length=tiny.RESPONSE, temperature=spec.temperature)
    )(
        tiny.actors()["policy"],
        jnp.concatenate([rollout.prompt_ids, rollout.response_ids], axis=1),
        jnp.concatenate([rollout.prompt_mask, rollout.response_mask], axis=1),
    )
    return dataclasses.replace(rollout, logprobs=jnp.where(rollout.response_mask, logprobs, 0.0))


def test_the_first_minibatch_has_ratio_one() -> None:
    """Nothing is clipped, and the policy loss is minus the mean advantage; metrics are those before the update."""
    spec = tiny.ppo_spec(epochs=1, minibatches=1, whiten_advantages=False, kl=ppo.KLSpec(target=0.01, horizon=100.0))
    rollout = exact_rollout(spec)
    state, metrics = updated(spec, tiny.ppo_optimizer(), tiny.ppo_state(tiny.ppo_optimizer()), rollout)
    advantages, returns = targets_by_loops(spec, rollout, 0.1)
    mask = np.asarray(rollout.response_mask)
    assert metrics["clip_fraction"] == 0
    assert metrics["approx_kl"] < 1e-9
    assert metrics["policy_loss"] == pytest.approx(-advantages[mask].mean(), abs=1e-5)
    # What a rollout says of itself, by hand.
    ended = np.any((np.asarray(rollout.response_ids) == tiny.EOS) & mask, axis=1)
    kl = np.asarray(rollout.logprobs - rollout.ref_logprobs)
    residual = (returns - np.asarray(rollout.values))[mask]
    assert metrics["kl"] == pytest.approx(kl.sum(axis=1).mean(), rel=1e-4)
    assert metrics["length"] == pytest.approx(mask.sum() / tiny.EPISODES)
    assert metrics["eos_fraction"] == pytest.approx(ended.mean())
    assert 0 < ended.mean() < 1
    assert metrics["reward.mean"] == pytest.approx(np.asarray(rollout.raw_scores).mean(), rel=1e-4)
    assert metrics["explained_variance"] == pytest.approx(1 - (residual**2).mean() / returns[mask].var(), rel=1e-3)
    # The price is fixed, far though the divergence is from the target.
    assert metrics["kl_coefficient"] == state.extra["kl_coefficient"] == pytest.approx(0.1)


def test_policy_and_value_model_have_optimizers_of_their_own() -> None:
    rate = dataclasses.replace(tiny.OPTIMIZER, weight_decay=0.0)
    still = dataclasses.replace(rate, learning_rate=0.0)
    for still_one, specs in (("value", (rate, still)), ("policy", (still, rate))):
        optimizer = ppo.make_ppo_optimizer(*specs)
        state = tiny.ppo_state(optimizer)
        new, _ = updated(tiny.ppo_spec(), optimizer, state, tiny.fixed_rollout(0))
        for network in ("policy", "value"):
            pairs = zip(jax.tree.leaves(state.params[network]), jax.tree.leaves(new.params[network]), strict=True)
            same = [np.array_equal(a, b) for a, b in pairs]
            assert all(same) if network == still_one else not any(same), (network, specs)


def test_the_controller_steers_toward_its_target() -> None:
    """Far above the target the error is clipped to a fifth: 16 episodes over a horizon of 100 change beta by 3.2 %."""
    kl = ppo.KLSpec(coefficient=0.1, controller="adaptive", target=0.01, horizon=100.0)
    spec = tiny.ppo_spec(epochs=1, minibatches=1, kl=kl)
    rollout = dataclasses.replace(tiny.fixed_rollout(0), ref_logprobs=tiny.fixed_rollout(0).logprobs - 0.2)
    state, _ = updated(spec, tiny.ppo_optimizer(), tiny.ppo_state(tiny.ppo_optimizer()), rollout)
    assert state.extra["kl_coefficient"] == pytest.approx(0.1 * (1 + 0.2 * 16 / 100), rel=1e-5)


BANDIT = DecoderSpec(vocab_size=6, width=16, depth=1, heads=2, kv_heads=1, mlp_width=16)
ARMS, GOOD, PULLS = 6, 4, 64


class Bandit(NamedTuple):
    """Its optimizer, the reference, one turn of play, and the probabilities of a policy's arms; compiled once."""

    optimizer: Any
    reference: dict
    turn: Callable[[TrainState], tuple[TrainState, dict]]
    arms: Callable[[dict], jax.Array]


@functools.cache
def bandit() -> Bandit:
    """One prompt, answers of one token, one of which is worth 1, the others 0; the value model stays at 0."""
    rate = OptimizerSpec(learning_rate=5e-3, steps=10_000, schedule="constant", clip_norm=0.0)
    optimizer = ppo.make_ppo_optimizer(rate, dataclasses.replace(rate, learning_rate=0.0))
    reference = jax.jit(partial(init_decoder, BANDIT))(jax.random.key(0))
    spec = ppo.PPOSpec(policy=BANDIT, value=BANDIT, epochs=2, minibatches=2)
    sampling = RolloutSpec(BANDIT, BANDIT, False, 1, 1, 0, SamplingSpec(), None)
    row = jnp.arange(PULLS, dtype=jnp.int32)
    prompts = PromptBatch(ids=jnp.full((PULLS, 2), 3, jnp.int32), mask=jnp.ones((PULLS, 2), bool), index=row, row=row)
    logprobs = partial(response_logprobs, BANDIT, response_length=1, temperature=1.0)

    @jax.jit
    def turn(state: TrainState) -> tuple[TrainState, dict]:
        answer = complete(sampling, state.params["policy"], prompts, ppo.step_keys(state)[0])
        ids = jnp.concatenate([prompts.ids, answer.ids], axis=1)
        reward = (answer.ids[:, 0] == GOOD).astype(jnp.float32)
        rollout = Rollout(
            prompt_ids=prompts.ids,
            prompt_mask=prompts.mask,
            response_ids=answer.ids,
            response_mask=answer.mask,
            logprobs=answer.logprobs,
            ref_logprobs=logprobs(reference, ids, jnp.ones(ids.shape, bool)),
            values=jnp.zeros((PULLS, 1)),
            scores=reward,
            raw_scores=reward,
            index=row,
        )
        return ppo.update(spec, optimizer, 1, state, rollout)

    @jax.jit
    def arms(policy: dict) -> jax.Array:
        ids = jnp.concatenate([jnp.full((ARMS, 2), 3, jnp.int32), jnp.arange(ARMS, dtype=jnp.int32)[:, None]], axis=1)
        return jnp.exp(logprobs(policy, ids, jnp.ones(ids.shape, bool)))[:, 0]

    return Bandit(optimizer, reference, turn, arms)


def play(beta: float, rounds: int, start: float = 0.0) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """The reference's and the final policy's probabilities of the arms, and the metrics.

    ``start`` moves the policy that far away from the reference before the first round.
    """
    optimizer, reference, turn, arms = bandit()
    away = jax.tree.map(lambda x: x + start * jax.random.normal(jax.random.key(9), x.shape), reference)
    head = jax.tree.map(jnp.zeros_like, init_scalar_head(BANDIT, jax.random.key(1)))
    params = {"policy": away, "value": {"decoder": reference, "head": head}}
    state = init_state(params, optimizer, jax.random.key(3), {"kl_coefficient": jnp.float32(beta)})
    seen = []
    for _ in range(rounds):
        state, metrics = turn(state)
        seen.append(jax.device_get(metrics))
    assert all(one["kl_coefficient"] == np.float32(beta) for one in seen)
    return np.asarray(arms(reference)), np.asarray(arms(state.params["policy"])), seen


def test_a_bandit_finds_its_better_arm() -> None:
    before, after, metrics = play(beta=0.0, rounds=12)
    assert before.sum() == pytest.approx(1, rel=1e-5)
    assert before[GOOD] < 0.3
    assert after[GOOD] > 0.9
    assert metrics[-1]["reward.mean"] > metrics[0]["reward.mean"] + 0.4


def test_a_high_kl_price_keeps_the_policy_at_the_reference() -> None:
    """The optimum is pi_ref exp(r / beta): at beta = 100 it is the reference to within a percent."""
    before, after, _ = play(beta=100.0, rounds=12)
    np.testing.assert_allclose(after, before, atol=0.08)


def test_a_high_kl_price_brings_the_policy_back() -> None:
    _, _, metrics = play(beta=100.0, rounds=20, start=0.3)
    away = metrics[0]["kl"]
    assert away > 0.1
    assert np.mean([m["kl"] for m in metrics[-4:]]) < 0.3 * away


def test_minibatches_are_a_new_permutation_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every episode is used once an epoch, and later minibatches see a policy that has moved."""
    seen: list[np.ndarray] = []
    real: Callable[..., Any] = ppo.loss_sums

    def watching(spec: ppo.PPOSpec, params: Any, batch: ppo.Episodes, **rest: Any) -> Any:
        jax.debug.callback(lambda returns: seen.append(np.sort(returns[:, 0])), batch.returns, ordered=True)
        return real(spec, params, batch, **rest)

    monkeypatch.setattr(ppo, "loss_sums", watching)
    spec = tiny.ppo_spec()
    rollout = exact_rollout(spec)
    _, metrics = updated(spec, tiny.ppo_optimizer(), tiny.ppo_state(tiny.ppo_optimizer()), rollout)
    jax.block_until_ready(metrics)
    jax.effects_barrier()
    assert metrics["approx_kl"] > 1e-5
    every = np.sort(targets_by_loops(spec, rollout, 0.1)[1][:, 0])
    assert len(seen) == 4
    for epoch in (seen[:2], seen[2:]):
        np.testing.assert_allclose(np.sort(np.concatenate(epoch)), every, atol=2e-5)
    assert not np.allclose(seen[0], seen[2])
