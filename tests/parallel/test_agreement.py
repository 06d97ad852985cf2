"""Eight devices, by pmap or on any mesh, train as one device does: every learner, ragged masks, float32 and float64."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import ppo
from rlhf_jax.learners.step import LossSums
from rlhf_jax.models.layout import place_hidden, place_keys
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor
from rlhf_jax.types import PromptBatch, Rollout
from tests.learners import tiny

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "one": lambda: MeshExecutor(jax.devices()[:1]),
    "pmap": lambda: PmapExecutor(jax.devices()),
    "data8": lambda: MeshExecutor(jax.devices(), data=8),
    "data2_fsdp2_tensor2": lambda: MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2),
    "fsdp2_sequence2_tensor2": lambda: MeshExecutor(jax.devices(), fsdp=2, sequence=2, tensor=2),
    "fsdp8": lambda: MeshExecutor(jax.devices(), fsdp=8),
}
TOLERANCE = {"float32": 1e-4, "float64": 1e-5}
# In float64, where no error hides in rounding, a mesh with every axis stands for all, and pmap for PPO, which gathers
# rollouts (SFT below, reward in test_accumulation.py). In float32, which is what runs use, each way has one learner.
MANY = [(learner, "data2_fsdp2_tensor2", "float64") for learner in tiny.LEARNERS] + [("ppo", "pmap", "float64")]
MANY += [(learner, "fsdp2_sequence2_tensor2", "float64") for learner in ("sft", "reward")]
MANY += [("sft", "pmap", "float32"), ("reward", "data8", "float32")]  # PPO: test_ppo_state.py


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The messages of every compilation inside the block."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield messages
    finally:
        logger.removeHandler(handler)
        messages[:] = [message for message in messages if message.startswith("Compiling ")]


class Trained(NamedTuple):
    metrics: list[dict[str, Any]]
    params: Any
    first: list[str]
    later: list[str]


@functools.cache
def trained(learner: str, executor: str, dtype: str) -> Trained:
    with jax.enable_x64(dtype == "float64"):
        steps = tiny.steps(learner, EXECUTORS[executor](), dtype)
        with compilations() as first:
            done = [next(steps)]
        with compilations() as later:
            done += steps
        return Trained([jax.device_get(m) for _, m in done], jax.device_get(done[-1][0].params), first, later)


def furthest(a: Any, b: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(x - y))), a, b)))


@pytest.mark.parametrize(("learner", "executor", "dtype"), MANY)
def test_eight_devices_are_one_device(learner: str, executor: str, dtype: str) -> None:
    """SFT and reward: 5 steps. PPO: 2 updates of 2 epochs of 2 minibatches, that is 8 optimizer steps."""
    one, many = trained(learner, "one", dtype), trained(learner, executor, dtype)
    assert len(one.metrics) == len(many.metrics) == (2 if learner == "ppo" else 5)
    assert {leaf.dtype for leaf in jax.tree.leaves((one.params, many.params))} == {np.dtype(dtype)}
    assert one.metrics[0]["loss"].dtype == many.metrics[0]["loss"].dtype == dtype
    assert furthest(one.params, many.params) < TOLERANCE[dtype]
    assert furthest(one.metrics, many.metrics) < TOLERANCE[dtype]
    for done in (one, many):
        assert done.first
        assert not done.later, "only the first step may compile anything"
    if dtype == "float64":  # Any step in float32 on the way would leave some 1e-7.
        assert furthest(one.params, many.params) < 1e-11


@pytest.mark.parametrize("parts", [tiny.sft_parts, tiny.reward_parts], ids=["sft", "reward"])
def test_a_mean_of_means_would_be_noticed(parts: Callable[[], Any]) -> None:
    """The inputs above are ragged enough: averaging each device's own mean leaves both tolerances far behind."""
    loss_sums, params, batches = parts()

    def own_mean(params: Any, batch: Any) -> LossSums:
        sums = loss_sums(params, batch)
        return LossSums(sums.numerator / jnp.maximum(sums.weight, 1), jnp.ones((), jnp.int32), sums.metrics)

    wrong = list(tiny.gradient_steps(EXECUTORS["pmap"](), own_mean, params, batches))
    right = trained("sft" if parts is tiny.sft_parts else "reward", "one", "float32")
    assert abs(wrong[0][1]["loss"] - right.metrics[0]["loss"]) > 10 * TOLERANCE["float32"]
    assert furthest(jax.device_get(wrong[-1][0].params), right.params) > 10 * TOLERANCE["float32"]


def test_whitening_on_each_device_would_be_noticed() -> None:
    """PPO whitens over the whole rollout: advantages whitened within one device's two rows are others."""
    spec, rollout = tiny.ppo_spec(), tiny.fixed_rollout(0)
    advantages = jax.jit(lambda part: ppo.targets(spec, part, jnp.float32(0.1)).advantages)
    shares = jax.tree.map(lambda leaf: leaf.reshape(8, 2, *leaf.shape[1:]), rollout)
    apart = [advantages(jax.tree.map(lambda leaf, i=i: leaf[i], shares)) for i in range(8)]
    assert furthest(advantages(rollout), np.concatenate(apart)) > 0.1


def test_eight_devices_sample_the_tokens_of_one_device() -> None:
    """And a row samples the same wherever it stands: its stream comes from its global number."""
    batch, order = tiny.prompt_batch(0), np.random.default_rng(0).permutation(tiny.EPISODES)

    def sampled(name: str, batch: PromptBatch) -> Rollout:
        executor = EXECUTORS[name]()
        roll = tiny.compile_roll(executor)
        return jax.device_get(roll(executor.place(tiny.actors(), "state"), batch, jax.random.key(5)))

    one = sampled("one", batch)
    mixed = jax.tree.map(lambda leaf: leaf[np.argsort(order)], sampled("pmap", jax.tree.map(lambda x: x[order], batch)))
    for many in (mixed, sampled("data2_fsdp2_tensor2", batch)):
        np.testing.assert_array_equal(one.response_ids, many.response_ids)
        np.testing.assert_array_equal(one.response_mask, many.response_mask)
        assert furthest(jax.tree.map(np.float64, one), jax.tree.map(np.float64, many)) < TOLERANCE["float32"]
    assert len(set(one.response_mask.sum(axis=1))) > 2
    # Were the row numbers local to a device, every second row would draw from the same stream.
    assert len({tuple(row) for row in one.response_ids}) > tiny.EPISODES // 2


def test_hidden_states_lie_over_rows_and_tokens_and_a_cache_over_rows_and_heads() -> None:
    """Or the sequence axis would have devices and no work."""
    executor = MeshExecutor(jax.devices(), fsdp=2, sequence=2, tensor=2)

    def made(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
        hidden = place_hidden(jnp.broadcast_to(x, (4, 6, 3)))
        return hidden, place_keys(jnp.broadcast_to(x, (4, 2, 6, 3)))

    with jax.sharding.use_abstract_mesh(executor.mesh.abstract_mesh):
        text = jax.jit(functools.partial(made, axis_name=None)).lower(jax.ShapeDtypeStruct((), jnp.float32)).as_text()
    assert '[{"data", "fsdp"}, {"sequence"}, {}]' in text
    assert '[{"data", "fsdp"}, {"tensor"}, {}, {}]' in text
