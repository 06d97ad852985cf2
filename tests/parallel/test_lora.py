"""Adapters over eight devices: steps are those of one device, and both matrices are split as their kernel is."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlhf_jax.models import LoRASpec, add_adapters
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor
from rlhf_jax.parallel.rules import partition_of
from tests.learners import tiny

LORA = LoRASpec(rank=4, alpha=8.0, targets=("q", "o", "up", "down"))
MANY: dict[str, Callable[[], Executor]] = {
    "pmap": lambda: PmapExecutor(jax.devices()),
    "mesh": lambda: MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2),
}


def two_steps(executor: Executor) -> tuple[dict, list[float]]:
    loss_sums, base, batches = tiny.sft_parts()
    params = add_adapters(LORA, base, jax.random.key(5))
    done = list(tiny.gradient_steps(executor, loss_sums, params, batches[:2]))
    return jax.device_get(done[-1][0].params), [float(metrics["loss"]) for _, metrics in done]


@pytest.fixture(scope="module")
def alone() -> tuple[dict, list[float]]:
    return two_steps(MeshExecutor(jax.devices()[:1]))


@pytest.mark.parametrize("name", MANY)
def test_eight_devices_are_one_device(name: str, alone: tuple[dict, list[float]]) -> None:
    params, losses = two_steps(MANY[name]())
    np.testing.assert_allclose(losses, alone[1], rtol=1e-5)
    for one, many in zip(jax.tree.leaves(alone[0]), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, many, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("params/layers/attention/q/lora_a", (2, 16, 4), PartitionSpec(None, "fsdp", None)),
        ("opt_state/1/0/mu/layers/gate/lora_b", (2, 4, 24), PartitionSpec(None, None, "tensor")),
        ("params/policy/layers/attention/o/lora_a", (2, 16, 4), PartitionSpec(None, "tensor", None)),
        ("params/value/decoder/layers/down/lora_b", (3, 2, 4, 16), PartitionSpec(None, None, None, "fsdp")),
        ("params/layers/up/lora_scale", (2,), PartitionSpec()),
    ],
)
def test_an_adapter_is_split_as_its_kernel_is(path: str, shape: tuple[int, ...], expected: PartitionSpec) -> None:
    assert partition_of(path, shape, MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2).mesh) == expected
