"""Adapters over eight devices: replicated or split, the steps are the same; matrices are split as their kernels are."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlhf_jax.models import LoRASpec, add_adapters, quantised
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor
from rlhf_jax.sharding import partition_of
from tests.learners import tiny

LORA = LoRASpec(rank=4, alpha=8.0, targets=("q", "o", "up", "down"))


def two_steps(executor: Executor, base: str = "float32") -> tuple[dict, list[float]]:
    loss_sums, start, batches = tiny.sft_parts()
    params = quantised(base, add_adapters(LORA, start, jax.random.key(5)))
    done = list(tiny.gradient_steps(executor, loss_sums, params, batches[:2]))
    return jax.device_get(done[-1][0].params), [float(metrics["loss"]) for _, metrics in done]


@pytest.mark.parametrize("base", ["float32", pytest.param("nf4", marks=pytest.mark.slow)])
def test_pmap_and_a_mesh_with_every_axis_train_alike(base: str) -> None:
    if base == "nf4":
        pytest.importorskip("qwix")
    mapped, losses = two_steps(PmapExecutor(jax.devices()), base)
    meshed, other_losses = two_steps(MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2), base)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(mapped), jax.tree.leaves(meshed), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("params/layers/attention/q/lora_a", (2, 16, 4), PartitionSpec(None, "fsdp", None)),
        ("opt_state/1/0/mu/layers/gate/lora_b", (2, 4, 24), PartitionSpec(None, None, "tensor")),
        ("params/policy/layers/attention/o/lora_a", (2, 16, 4), PartitionSpec(None, "tensor", None)),
        ("params/value/decoder/layers/down/lora_b", (3, 2, 4, 16), PartitionSpec(None, None, None, "fsdp")),
        ("params/layers/up/lora_scale", (2,), PartitionSpec()),
        # A quantised kernel: of NF4 two inputs are a byte, scales stand for a column or for blocks of it.
        ("params/layers/gate/kernel_codes", (2, 8, 24), PartitionSpec(None, "fsdp", "tensor")),
        ("params/layers/gate/kernel_scale", (2, 1, 24), PartitionSpec(None, None, "tensor")),
        ("params/value/decoder/layers/down/kernel_codes", (2, 24, 16), PartitionSpec(None, "tensor", "fsdp")),
        ("params/layers/attention/o/kernel_scale", (3, 2, 5, 16), PartitionSpec(None, None, None, "fsdp")),
    ],
)
def test_an_adapter_is_split_as_its_kernel_is(path: str, shape: tuple[int, ...], expected: PartitionSpec) -> None:
    assert partition_of(path, shape, MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2).mesh) == expected
