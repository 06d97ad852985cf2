"""A step that is not finite is not made, on a loss small enough to know by hand.

The loss of a row (x, y) is (w.x - y)^2: its gradient 2 (w.x - y) x, and a NaN in one row is one in all.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.learners.ensemble import mean_norm, per_member
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import CAUSES, LossSums, causes_of, init_state, train_step
from rlhf_jax.parallel import MeshExecutor, PmapExecutor

ROWS = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
START = {"w": jnp.asarray([0.5, -1.0, 2.0])}
OPTIMIZER = optax.adam(0.1)


def loss_sums(params: Any, rows: Any) -> LossSums:
    residual = rows[:, :3] @ params["w"] - rows[:, 3]
    return LossSums(jnp.sum(residual**2), jnp.float32(len(rows)), {})


def steep(params: Any, rows: Any) -> LossSums:
    """A finite loss whose gradient is not: that of a root at 0, where the first row is all 0."""
    sums = loss_sums(params, rows)
    return sums._replace(numerator=sums.numerator + jnp.sqrt(jnp.sum((rows[0, :3] * params["w"]) ** 2)))


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def started(optimizer: Any = OPTIMIZER, params: Any = START) -> Any:
    return init_state(params, optimizer, jax.random.key(0), {})


def spoilt(value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[5, 2] = value
    return rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_bad_row_moves_nothing_but_the_step(value: float, microbatches: int) -> None:
    """1e30 is finite, but not its square. After it, the next step is the one that would have come without it."""
    step = jax.jit(partial(train_step, loss_sums, OPTIMIZER, microbatches=microbatches))
    before, _ = step(started(), ROWS)
    after, metrics = step(before, spoilt(value))
    assert bits((after.params, after.opt_state)) == bits((before.params, before.opt_state))
    assert (int(after.step), float(metrics["skipped"])) == (2, 1)
    assert "loss" in causes_of(int(metrics["not_finite"]))
    straight, _ = step(before, ROWS)
    later, metrics = step(after, ROWS)
    assert bits((later.params, later.opt_state)) == bits((straight.params, straight.opt_state))
    assert (int(later.step), float(metrics["skipped"]), int(metrics["not_finite"])) == (3, 0, 0)


def test_a_gradient_that_is_not_finite_is_told_from_a_loss() -> None:
    rows = ROWS.copy()
    rows[0] = 0
    state = started()
    after, metrics = jax.jit(partial(train_step, steep, OPTIMIZER))(state, rows)
    residual = rows[:, :3] @ np.asarray(START["w"]) - rows[:, 3]
    assert float(metrics["loss"]) == pytest.approx(np.mean(residual**2), rel=1e-5)
    assert causes_of(int(metrics["not_finite"])) == ("gradient",)
    assert bits((after.params, after.opt_state)) == bits((state.params, state.opt_state))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_of_finite_gradients_the_optimizers_make_finite_updates(name: str, clip_norm: float) -> None:
    """At the ends of float32: norms just below overflow, denormal numbers, nothing at all; one after the other."""
    spec = OptimizerSpec(1.0, 10, weight_decay=0.1, clip_norm=clip_norm, name=name, factored_from=2)
    params = {"layers": {"up": {"kernel": jnp.ones((2, 4, 3))}}, "norm": {"scale": jnp.ones(3)}}
    optimizer = make_optimizer(spec)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for size in (3e18, 1e-45, 0.0, 1e-20, 1.0, 3e18, -3e18):
        gradients = jax.tree.map(lambda leaf, size=size: jnp.full_like(leaf, size), params)
        assert np.isfinite(optax.tree.norm(gradients))
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((params, state))), (name, size)


def test_a_finite_step_is_the_optimizers_own() -> None:
    """By optax alone, on the gradient by hand."""
    residual = ROWS[:, :3] @ START["w"] - ROWS[:, 3]
    gradient = {"w": 2 * residual @ ROWS[:, :3] / len(ROWS)}
    updates, _ = OPTIMIZER.update(gradient, OPTIMIZER.init(START), START)
    after, metrics = jax.jit(partial(train_step, loss_sums, OPTIMIZER))(started(), ROWS)
    np.testing.assert_allclose(after.params["w"], START["w"] + updates["w"], rtol=1e-5)
    assert (float(metrics["skipped"]), int(metrics["not_finite"])) == (0, 0)


@pytest.mark.parametrize("make", [MeshExecutor, PmapExecutor])
def test_one_devices_bad_row_is_skipped_by_all(make: Any) -> None:
    """Of eight devices each has one row."""
    executor = make(jax.devices()[:8])
    step = executor.compile(partial(train_step, loss_sums, OPTIMIZER), ("state", "rows"), ("state", "replicated"))
    state = executor.place(started(), "state")
    after, metrics = step(state, executor.place(spoilt(np.nan), "rows"))
    assert bits((after.params, after.opt_state)) == bits((state.params, state.opt_state))
    assert (int(after.step), float(metrics["skipped"])) == (1, 1)
    for leaf in jax.tree.leaves(after.params):
        assert all(np.array_equal(leaf.addressable_shards[0].data, one.data) for one in leaf.addressable_shards)


def test_of_whole_models_with_an_optimizer_each_none_moves() -> None:
    """A NaN in the parameters of one member alone."""
    optimizer = per_member(OPTIMIZER)
    params = {"w": jnp.stack([START["w"], START["w"].at[0].set(jnp.nan)])}

    def members(params: Any, rows: Any) -> LossSums:
        sums = jax.vmap(lambda own: loss_sums({"w": own}, rows))(params["w"])
        return LossSums(jnp.nansum(sums.numerator), sums.weight[0], {})

    state = started(optimizer, params)
    after, metrics = jax.jit(partial(train_step, members, optimizer, norm=mean_norm))(state, ROWS)
    assert float(metrics["skipped"]) == 1
    assert bits((after.params, after.opt_state)) == bits((state.params, state.opt_state))


def test_bits_are_named() -> None:
    assert causes_of(0) == ()
    for place, name in enumerate(CAUSES):
        assert causes_of(1 << place) == (name,)
    assert causes_of((1 << len(CAUSES)) - 1) == CAUSES
