"""Schedules against their closed forms, and clipping against the norm."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer, make_schedule
from rlhf_jax.learners.step import init_state, train_step
from tests.learners import tiny

SPEC = OptimizerSpec(learning_rate=0.4, steps=20, warmup=4)


def rates(spec: OptimizerSpec) -> list[float]:
    """The rate of every update, and the one that would follow the last."""
    schedule = make_schedule(spec)
    return [float(schedule(count)) for count in range(spec.steps + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_first_update_moves_and_the_peak_is_reached(schedule: str) -> None:
    found = rates(dataclasses.replace(SPEC, schedule=schedule))
    np.testing.assert_allclose(found[:5], [0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)
    assert max(found) == pytest.approx(0.4)


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_decay_is_the_closed_form_and_ends_at_zero(warmup: int) -> None:
    after = 20 - warmup
    spec = dataclasses.replace(SPEC, warmup=warmup)
    cosine = [0.2 * (1 + math.cos(math.pi * n / after)) for n in range(after + 1)]
    linear = [0.4 * (1 - n / after) for n in range(after + 1)]
    np.testing.assert_allclose(rates(spec)[warmup:], cosine, atol=1e-7)
    np.testing.assert_allclose(rates(dataclasses.replace(spec, schedule="linear"))[warmup:], linear, atol=1e-7)
    assert rates(dataclasses.replace(spec, schedule="constant"))[warmup:] == pytest.approx([0.4] * (after + 1))


def test_adam_by_hand() -> None:
    """Two updates of AdamW with decay, from the paper's formulas."""
    spec = OptimizerSpec(
        learning_rate=0.1, steps=9, schedule="constant", weight_decay=0.5, clip_norm=0.0, beta1=0.8, beta2=0.9
    )
    optimizer, x = make_optimizer(spec), jnp.asarray([1.0, -2.0])
    state = optimizer.init(x)
    expected, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, gradient in enumerate([np.array([0.3, 4.0]), np.array([-1.0, 2.0])], start=1):
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, x)
        x = x + updates
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        expected = expected - 0.1 * (m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8) + 0.5 * expected)
    np.testing.assert_allclose(x, expected, rtol=1e-5)


def test_clipping_is_by_the_norm_of_all_gradients_together() -> None:
    """Gradients (3, 4) of norm 5 clipped to 1 enter Adam as (0.6, 0.8): its first moment is a tenth of them."""
    optimizer = make_optimizer(dataclasses.replace(SPEC, clip_norm=1.0, beta1=0.9))
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    for size, moment in ((1.0, (0.06, 0.08)), (0.1, (0.03, 0.04))):
        gradients = {"a": jnp.asarray([3.0 * size]), "b": jnp.asarray([4.0 * size])}
        state = optimizer.update(gradients, optimizer.init(params), params)[1]
        np.testing.assert_allclose([state[1][0].mu["a"][0], state[1][0].mu["b"][0]], moment, rtol=1e-6)


def test_the_reported_norm_is_that_before_clipping() -> None:
    loss_sums, params, batches = tiny.sft_parts()

    def mean(params):
        sums = loss_sums(params, jax.tree.map(jnp.asarray, batches[0]))
        return sums.numerator / sums.weight

    gradients = jax.tree.leaves(jax.jit(jax.grad(mean))(params))
    norm = math.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in gradients))
    optimizer = make_optimizer(dataclasses.replace(tiny.OPTIMIZER, clip_norm=norm / 7))
    step = jax.jit(lambda state, batch: train_step(loss_sums, optimizer, state, batch))
    state, metrics = step(init_state(params, optimizer, jax.random.key(0)), batches[0])
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert state.step == 1
