"""Eight devices train an ensemble as one device does, and split its large leaves behind the axis of its members."""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlhf_jax.learners import ensemble, reward
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.models import EnsembleSpec, init_reward_model
from rlhf_jax.objectives.utilities import LogSigmoid, Power
from rlhf_jax.sharding import partition_of
from tests.learners import tiny
from tests.parallel.test_agreement import EXECUTORS, furthest
from tests.parallel.test_rules import mesh

SPEC = reward.RewardSpec(tiny.decoder_spec(), bounded=True, utilities=(LogSigmoid(), Power(gamma=0.5)))
STEPS = 3


@functools.cache
def trained(kind: str, executor: str) -> tuple[Any, Any, int]:
    """(parameters, metrics of each step, shards of an inner kernel), lists resampled."""
    form, chosen = EnsembleSpec(3, kind), EXECUTORS[executor]()
    params = jax.jit(partial(init_reward_model, SPEC.decoder, ensemble=form))(jax.random.key(0))
    # Far from the start, where tokens look alike and rewards too.
    params["decoder"]["embedding"] = 25.0 * params["decoder"]["embedding"]
    loss = partial(
        ensemble.loss_sums,
        partial(reward.member_rewards, SPEC, form),
        partial(reward.loss_of_rewards, SPEC),
        jax.random.key(4),
    )
    optimizer = make_optimizer(tiny.OPTIMIZER)
    optimizer = ensemble.per_member(optimizer) if kind == "models" else optimizer
    state = chosen.place(init_state(params, optimizer, jax.random.key(7)), "state")
    step = chosen.compile(partial(train_step, loss, optimizer), ("state", "rows"), ("state", "replicated"))
    rows = []
    for number in range(STEPS):
        state, metrics = step(state, chosen.place(tiny.rank_batch(number), "rows"))
        rows.append(jax.device_get(metrics))
    inner = state.params["decoder"]["layers"]["up"]["kernel"]
    return jax.device_get(state.params), rows, inner.size // inner.addressable_shards[0].data.size


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "executor"), [("models", "data2_fsdp2_tensor2"), ("heads", "pmap")])
def test_eight_devices_are_one_device(kind: str, executor: str) -> None:
    one, many = trained(kind, "one"), trained(kind, executor)
    assert furthest(one[0], many[0]) < 1e-4
    assert furthest(one[1], many[1]) < 1e-4
    assert many[2] == (4 if executor.startswith("data") else 1)
    assert furthest(one[0]["head"], jax.tree.map(lambda leaf: leaf[::-1], one[0]["head"])) > 1e-2


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("params/decoder/layers/attention/q/kernel", (5, 2, 16, 16), PartitionSpec(None, None, "fsdp", "tensor")),
        ("opt_state/1/0/mu/decoder/layers/down/kernel", (5, 2, 24, 16), PartitionSpec(None, None, "tensor", "fsdp")),
        ("params/decoder/embedding", (4, 33, 16), PartitionSpec(None, None, "fsdp")),
        ("params/head/kernel", (5, 16), PartitionSpec()),
        ("opt_state/1/0/count", (5,), PartitionSpec()),
    ],
)
def test_the_axis_of_members_is_never_split(path: str, shape: tuple[int, ...], expected: PartitionSpec) -> None:
    assert partition_of(path, shape, mesh(fsdp=2, tensor=2)) == expected


def test_counts_of_resampled_lists_do_not_depend_on_the_device() -> None:
    """Each device sees its own rows only; a list's counts come from its place in the split."""
    index = jnp.arange(16)
    count = partial(ensemble.list_counts, jax.random.key(4), 3)
    whole = count(index)
    parts = jax.pmap(count)(index.reshape(8, 2))
    np.testing.assert_array_equal(jnp.concatenate(list(parts), axis=1), whole)
