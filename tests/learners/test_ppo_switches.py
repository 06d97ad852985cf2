"""The switches of PPO's update on tiny inputs: what each adds to the loss, and what it leaves alone."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation import response_logprobs
from rlhf_jax.learners import ppo, sft
from rlhf_jax.learners.ppo_loss import with_weights
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import init_scalar_head
from rlhf_jax.objectives.regularisers import Regulariser
from rlhf_jax.types import Params, Rollout, TrainState
from tests.learners import tiny

MIX, VALUE, ENTROPY, BETA = 0.7, 0.1, 0.05, 0.1
EXACT = Regulariser(estimator="exact", placement="both")
EVERYTHING = tiny.ppo_spec(
    kl=ppo.KLSpec(coefficient=BETA, controller="adaptive", target=0.5, horizon=100.0, regulariser=EXACT),
    rewards=ppo.RewardRules(score_at="after", scale=True, clip=2.0, whiten=True),
    loss_mean="sequences",
    clip_high=0.28,
    mask_unfinished=True,
    shared=True,
    normalize_value=True,
    stop_kl=0.05,
    entropy=ENTROPY,
    pretraining=MIX,
)


def actors(spec: ppo.PPOSpec) -> Params:
    """Those of ``tiny``, the value model a head on the policy where it is shared, left out where there is none."""
    params = tiny.actors()
    if spec.shared:
        params = {**params, "value": {"head": init_scalar_head(spec.policy, jax.random.key(5))}}
    return params if spec.value is not None else {"policy": params["policy"]}


def rollout_of(spec: ppo.PPOSpec, seed: int = 0) -> Rollout:
    rollout = tiny.fixed_rollout(seed)
    exact = jnp.where(rollout.response_mask, 0.1 * (1 + jnp.arange(tiny.RESPONSE)), 0.0)
    return dataclasses.replace(
        rollout,
        finished=jnp.arange(tiny.EPISODES) % 5 > 0 if spec.mask_unfinished else None,
        divergences=exact if spec.kl.regulariser.estimator == "exact" else None,
        values=None if spec.value is None else rollout.values,
    )


def extras(spec: ppo.PPOSpec) -> tuple[Any, Any]:
    """(packed rows for every update, a reference that differs from the policy), where they are needed."""
    rows = None
    if spec.pretraining:
        both = [tiny.token_batch(seed) for seed in range(spec.epochs * spec.minibatches)]
        rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *both)
    exact = spec.kl.regulariser.estimator == "exact" and spec.kl.regulariser.in_loss
    return rows, jax.tree.map(lambda x: 0.9 * x, tiny.decoder_params("float32", 2)) if exact else None


def optimizer_of(spec: ppo.PPOSpec) -> Any:
    own = spec.value is not None and not spec.shared
    rate = dataclasses.replace(tiny.OPTIMIZER, learning_rate=1e-3)
    return ppo.make_ppo_optimizer(tiny.OPTIMIZER, rate if own else None)


def start(spec: ppo.PPOSpec) -> TrainState:
    extra = {"kl_coefficient": jnp.float32(BETA), **ppo.running_moments(spec)}
    return init_state(actors(spec), optimizer_of(spec), jax.random.key(11), extra)


def updated(spec: ppo.PPOSpec, **changes: Any) -> tuple[TrainState, dict[str, Any]]:
    spec = dataclasses.replace(spec, **changes)
    update = jax.jit(partial(ppo.update, spec, optimizer_of(spec), tiny.EOS))
    return update(start(spec), rollout_of(spec), *extras(spec))


def moved(before: Params, after: Params) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return all(not np.array_equal(a, b) for a, b in pairs)


def test_everything_at_once_adds_up() -> None:
    """One minibatch: the loss is the sum of its parts, each by its own definition."""
    spec = dataclasses.replace(EVERYTHING, epochs=1, minibatches=1, stop_kl=0.0)
    state, metrics = updated(spec)
    mask = np.asarray(rollout_of(spec).response_mask & rollout_of(spec).finished[:, None])
    rows = extras(spec)[0]
    sums = jax.jit(partial(sft.loss_sums, spec.policy))(actors(spec)["policy"], rows)
    assert metrics["pretraining_loss"] == pytest.approx(float(sums.numerator / sums.weight), rel=1e-5)
    aims = jax.jit(partial(ppo.targets, spec))(rollout_of(spec), jnp.float32(BETA), start(spec).extra)
    price = ppo.loss_price(spec, jnp.float32(BETA), aims)  # in the units of whitened rewards and advantages
    parts = metrics["policy_loss"] + VALUE * metrics["value_loss"] + price * metrics["kl_loss"]
    bonus = (parts + MIX * metrics["pretraining_loss"] - metrics["loss"]) / ENTROPY
    # The bonus is the entropy, here over sequences; the metric is over tokens. Both lie below that of all 33 tokens.
    assert 0.5 * metrics["entropy"] < bonus < np.log(tiny.VOCAB)
    assert metrics["kl_loss"] > 0
    assert metrics["updates"] == 1
    assert 0 < metrics["ratio.min"] < 1 < metrics["ratio.max"]
    assert metrics["eos_fraction"] == pytest.approx(np.mean(np.arange(tiny.EPISODES) % 5 > 0))
    assert metrics["kl_coefficient"] != state.extra["kl_coefficient"]
    assert 0 < mask.sum() < np.asarray(rollout_of(spec).response_mask).sum()
    assert moved(actors(spec), state.params)


@pytest.mark.parametrize(("after", "mean"), [(False, "tokens"), (True, "tokens"), (True, "constant")])
def test_the_value_loss_is_a_mean_over_its_own_slots(after: bool, mean: str) -> None:
    """However the policy's loss is averaged, and whether or not there is one slot more than tokens."""
    spec = tiny.ppo_spec(rewards=ppo.RewardRules("after" if after else "last"), loss_mean=mean)
    rollout = tiny.fixed_rollout(0)
    aims = ppo.targets(spec, rollout, jnp.float32(0.0))
    batch = with_weights(spec, ppo.episodes_of(spec, rollout, aims), None)
    losses = np.random.default_rng(0).random(batch.response_mask.shape)
    slots = np.asarray(batch.response_mask if batch.value_mask is None else batch.value_mask)
    total = batch.response_mask.sum() if batch.row_weights is None else batch.row_weights.sum()
    weights = slots if batch.value_weights is None else batch.value_weights
    assert float(np.sum(weights * losses * slots) / total) == pytest.approx(losses[slots].mean(), rel=1e-5)
    assert slots.sum() - np.asarray(batch.response_mask).sum() == (after * (slots.sum(axis=1) < 6)).sum() or after


def test_an_iteration_stops_when_the_policy_has_gone_too_far() -> None:
    """Each of five updates moves the policy by one, and begins from as many nats as it has moved."""

    def attempt(carry: tuple[Any, Any], moves: jax.Array) -> Any:
        zero = jnp.float32(0.0)
        metrics = {"approx_kl": carry[0]["policy"], "loss": zero, "ratio.max": 1.0 + carry[0]["policy"]}
        made = {"skipped": zero, "not_finite": jnp.int32(0)}
        return ({"policy": carry[0]["policy"] + moves}, carry[1]), {**metrics, **made, "ratio.min": zero - 1.0}

    def run(stop_kl: float) -> tuple[float, dict[str, Any]]:
        spec = tiny.ppo_spec(stop_kl=stop_kl, epochs=5, minibatches=1)
        end, metrics = ppo.run_updates(spec, attempt, ({"policy": jnp.float32(0.0)}, ()), (jnp.ones(5),))
        return float(end[0]["policy"]), metrics

    for stop_kl in (0.0, 100.0):
        end, metrics = run(stop_kl)
        assert (end, metrics["updates"], metrics["approx_kl"], metrics["ratio.max"]) == (5, 5, 2, 5)
    # From 0, 1 and 2 nats updates are made; the one that would begin from 3 is seen, but not made, nor the last.
    end, metrics = run(2.5)
    assert (end, metrics["updates"], metrics["approx_kl"], metrics["ratio.max"], metrics["ratio.min"]) == (
        3,
        3,
        1.5,
        4,
        1,
    )


def test_demonstrations_count_where_no_episode_has_ended() -> None:
    """One minibatch, nothing in it but demonstrations: the loss is their mean at its coefficient, and moves."""
    spec = tiny.ppo_spec(mask_unfinished=True, pretraining=MIX, epochs=1, minibatches=1)
    rollout = dataclasses.replace(tiny.fixed_rollout(0), finished=jnp.zeros(tiny.EPISODES, bool))
    update = jax.jit(partial(ppo.update, spec, optimizer_of(spec), tiny.EOS))
    state, metrics = update(start(spec), rollout, extras(spec)[0])
    sums = jax.jit(partial(sft.loss_sums, spec.policy))(actors(spec)["policy"], extras(spec)[0])
    assert metrics["pretraining_loss"] == pytest.approx(float(sums.numerator / sums.weight), rel=1e-5)
    assert metrics["loss"] == pytest.approx(MIX * float(sums.numerator / sums.weight), rel=1e-5)
    assert moved(actors(spec)["policy"], state.params["policy"])
    assert (metrics["ratio.max"], metrics["ratio.min"]) == (1, 1)


def test_extreme_ratios_are_those_of_tokens_that_are_learned() -> None:
    """The policy has become likelier by 0.1 to 0.4 nats at every token but those that are padding."""
    spec = tiny.ppo_spec(value=None, advantage="reinforce", gamma=1.0)
    rollout = tiny.fixed_rollout(0)
    ids = jnp.concatenate([rollout.prompt_ids, rollout.response_ids], axis=1)
    mask = jnp.concatenate([rollout.prompt_mask, rollout.response_mask], axis=1)
    read = partial(response_logprobs, spec.policy, response_length=tiny.RESPONSE, temperature=spec.temperature)
    shift = np.linspace(0.1, 0.4, rollout.logprobs.size).reshape(rollout.logprobs.shape)
    before = jnp.where(rollout.response_mask, jax.jit(read)(actors(spec)["policy"], ids, mask) - shift, 0.0)
    rollout = dataclasses.replace(rollout, logprobs=before, values=None)
    batch = ppo.episodes_of(spec, rollout, ppo.targets(spec, rollout, jnp.float32(0.0)))
    metrics = jax.jit(partial(ppo.loss_sums, spec))(actors(spec), batch).metrics
    expected = np.exp(shift)[np.asarray(rollout.response_mask)]
    assert float(metrics["ratio.max"].value) == pytest.approx(expected.max(), rel=1e-4)
    assert -float(metrics["ratio.min"].value) == pytest.approx(expected.min(), rel=1e-4)


def test_without_a_value_model_nothing_is_left_of_it() -> None:
    spec = tiny.ppo_spec(value=None, advantage="rloo", group=4, gamma=1.0)
    state, metrics = updated(spec)
    assert state.params.keys() == {"policy"}
    assert moved(actors(spec), state.params)
    assert not {"value_loss", "value.rmse", "explained_variance"} & metrics.keys()
    assert metrics["loss"] == pytest.approx(metrics["policy_loss"])
