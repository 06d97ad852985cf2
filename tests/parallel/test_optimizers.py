"""Every optimizer trains alike on one device, under pmap and on a mesh, in parts too; its large leaves are split."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import LossSums, init_state
from rlhf_jax.parallel import MeshExecutor, PmapExecutor
from rlhf_jax.sharding import partition_of
from tests.learners import tiny
from tests.parallel.test_agreement import furthest
from tests.parallel.test_rules import mesh

SIZES = {"layers": {"up": {"kernel": (2, 8, 16)}, "down": {"kernel": (2, 16, 8)}}, "embedding": (24, 8)}


def params() -> Any:
    random = np.random.default_rng(0)
    return jax.tree.map(lambda shape: jnp.asarray(random.normal(size=shape)), SIZES, is_leaf=lambda x: type(x) is tuple)


def loss_sums(params: Any, rows: Any) -> LossSums:
    """Squares of what a small network of the decoder's paths says; rows weigh differently."""
    x = params["embedding"][rows["ids"]]
    for up, down in zip(params["layers"]["up"]["kernel"], params["layers"]["down"]["kernel"], strict=True):
        x = x + jnp.tanh(x @ up) @ down
    return LossSums(jnp.sum(rows["weight"] * jnp.sum((x - 1) ** 2, axis=-1)), jnp.sum(rows["weight"]), {})


@pytest.fixture(params=["adafactor", "muon"])
def optimizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    spec = dataclasses.replace(tiny.OPTIMIZER, name=request.param, factored_from=8, learning_rate=0.05)
    monkeypatch.setattr(tiny, "OPTIMIZER", spec)
    with jax.enable_x64(True):
        yield spec


def test_eight_devices_are_one_device(optimizer: Any) -> None:
    random = np.random.default_rng(1)
    batches = [{"ids": random.integers(0, 24, 16), "weight": random.uniform(0, 3, 16)} for _ in range(3)]

    def end(executor: Any, microbatches: int = 1) -> Any:
        done = list(tiny.gradient_steps(executor, loss_sums, params(), batches, microbatches=microbatches))
        return jax.device_get(done[-1][0].params)

    one = end(MeshExecutor(jax.devices()[:1]))
    assert furthest(one, params()) > 0.05
    assert furthest(one, end(PmapExecutor(jax.devices()))) < 1e-10
    assert furthest(one, end(MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2), microbatches=2)) < 1e-10


def test_large_leaves_of_the_state_are_split(optimizer: Any) -> None:
    """By 8 where their parameter is; a factored second moment is vectors, which are not."""
    # Large leaves: a moment of each of three parameters; Muon has one of two, and AdamW's two of the embedding.
    expected = {("adafactor", 8): 0, ("adafactor", 128): 3, ("muon", 8): 4, ("muon", 128): 4}
    executor = MeshExecutor(jax.devices(), fsdp=4, tensor=2)
    for factored_from in (8, 128):
        made = make_optimizer(dataclasses.replace(optimizer, factored_from=factored_from))
        state = executor.place(init_state(params(), made, jax.random.key(0)), "state")
        shares = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size // leaf.addressable_shards[0].data.size
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
            if leaf.size > 2 * 16
        }
        assert set(shares.values()) <= {8}, shares
        assert len(shares) == expected[optimizer.name, factored_from], shares


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("opt_state/1/0/v/layers/up/kernel", (2, 16, 24), PartitionSpec(None, "fsdp", "tensor")),
        ("opt_state/1/0/v/layers/up/kernel", (2, 1), PartitionSpec()),
        ("opt_state/1/0/v/decoder/layers/up/kernel", (4, 2, 1), PartitionSpec()),
        ("opt_state/1/0/v_row/decoder/layers/up/kernel", (4, 2, 16), PartitionSpec(None, None, None)),
        ("opt_state/1/0/v_col/embedding", (32,), PartitionSpec(None)),
        (
            "opt_state/1/inner_states/matrices/inner_state/0/0/mu/layers/down/kernel",
            (2, 24, 16),
            PartitionSpec(None, "tensor", "fsdp"),
        ),
        ("params/layers/attention/v/kernel", (2, 16, 8), PartitionSpec(None, "fsdp", "tensor")),
    ],
)
def test_rule_of_a_leaf(path: str, shape: tuple[int, ...], expected: PartitionSpec) -> None:
    assert partition_of(path, shape, mesh(fsdp=2, tensor=2)) == expected
