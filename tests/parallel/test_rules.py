"""Which leaves are split, and that optimizer moments lie where their parameters do."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import init_decoder
from rlhf_jax.parallel import MeshExecutor
from rlhf_jax.sharding import partition_of
from tests.learners import tiny


def mesh(**sizes: int) -> jax.sharding.Mesh:
    return MeshExecutor(jax.devices(), **sizes).mesh


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("params/layers/attention/q/kernel", (2, 16, 16), PartitionSpec(None, "fsdp", "tensor")),
        ("params/policy/layers/attention/o/kernel", (2, 16, 16), PartitionSpec(None, "tensor", "fsdp")),
        ("opt_state/1/0/mu/layers/gate/kernel", (2, 16, 24), PartitionSpec(None, "fsdp", "tensor")),
        ("params/value/decoder/layers/down/kernel", (2, 24, 16), PartitionSpec(None, "tensor", "fsdp")),
        ("embedding", (32, 16), PartitionSpec("tensor", "fsdp")),
        ("params/position_embedding", (64, 16), PartitionSpec(None, "fsdp")),
        ("params/output", (16, 32), PartitionSpec("fsdp", "tensor")),
        # 33 words are not shared evenly by two devices, and may be left whole.
        ("params/embedding", (33, 16), PartitionSpec(None, "fsdp")),
        ("params/output", (16, 33), PartitionSpec("fsdp", None)),
        # Norms and heads are small.
        ("params/layers/attention_norm/scale", (2, 16), PartitionSpec()),
        ("params/head/kernel", (16,), PartitionSpec()),
        ("step", (), PartitionSpec()),
    ],
)
def test_rule_of_a_leaf(path: str, shape: tuple[int, ...], expected: PartitionSpec) -> None:
    assert partition_of(path, shape, mesh(fsdp=2, tensor=2)) == expected


@pytest.mark.parametrize(
    ("path", "shape", "text"),
    [
        ("params/layers/up/kernel", (2, 15, 24), "width of 15 cannot be split evenly over fsdp=2"),
        ("opt_state/0/mu/layers/down/kernel", (2, 25, 16), "mlp_width of 25 cannot be split evenly over tensor=2"),
        ("params/layers/attention/k/kernel", (2, 16, 15), "kv_heads of 15 cannot be split evenly over tensor=2"),
        ("params/embedding", (32, 15), "width of 15 cannot be split evenly over fsdp=2"),
    ],
)
def test_what_cannot_be_split_is_never_left_whole_in_silence(path: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{path}: {text}$"):
        partition_of(path, shape, mesh(fsdp=2, tensor=2))


def test_a_large_parameter_is_split_in_memory_and_its_moments_with_it() -> None:
    executor = MeshExecutor(jax.devices(), fsdp=4, tensor=2)
    spec = dataclasses.replace(tiny.decoder_spec(), tied=False, positions="learned", max_positions=8)
    made = executor.make(partial(init_decoder, spec), jax.random.key(0))
    alone = jax.jit(partial(init_decoder, spec))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, made, alone)
    first = init_state(made, make_optimizer(tiny.OPTIMIZER), jax.random.key(0))
    state = executor.place(first, "state")
    # Already before it is placed no device has more than its share.
    for leaf, placed in zip(
        *(jax.tree.leaves((one.params, one.opt_state[1][0].mu)) for one in (first, state)), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(placed.sharding, leaf.ndim)
    adam = state.opt_state[1][0]
    seen = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        local = leaf.addressable_shards[0].data.shape
        split = 1 if "norm" in name else 4 if "embedding" in name else 8
        if name == "output":  # Of 33 columns.
            split = 4
        assert leaf.size == split * leaf.addressable_shards[0].data.size, (name, local)
        for moments in (adam.mu, adam.nu):
            moment = dict(jax.tree_util.tree_leaves_with_path(moments))[path]
            assert moment.sharding.is_equivalent_to(leaf.sharding, leaf.ndim), name
        seen += split > 1
    assert seen == 10


def test_a_step_leaves_a_split_state_split() -> None:
    executor = MeshExecutor(jax.devices(), fsdp=8)
    state, _ = next(tiny.steps("sft", executor))
    before = executor.shardings(state, "state")
    assert all(
        jax.tree.leaves(
            jax.tree.map(lambda leaf, there: leaf.sharding.is_equivalent_to(there, leaf.ndim), state, before)
        )
    )
    assert state.params["layers"]["up"]["kernel"].addressable_shards[0].data.shape == (2, 2, 24)
