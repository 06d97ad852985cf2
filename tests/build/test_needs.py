"""What a program is said to need, against sizes counted by hand and arrays that were placed."""

import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.build import devices, programs
from rlhf_jax.build.ahead import Planned
from rlhf_jax.build.devices import GIB, memory_of, topology_devices
from rlhf_jax.build.needs import by_axes, bytes_on_a_device, needs_of
from rlhf_jax.build.programs import Program
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import MeshExecutor
from rlhf_jax.parallel.hlo import Collective


@pytest.fixture(scope="module")
def executor() -> MeshExecutor:
    return MeshExecutor(jax.devices()[:4], data=1, fsdp=2, tensor=2)


def _placed(executor: MeshExecutor, shape: tuple[int, ...], *spec: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(executor.mesh, PartitionSpec(*spec)))


def test_bytes_on_a_device_are_those_of_the_arrays_placed_there(executor: MeshExecutor) -> None:
    tree = {"a": _placed(executor, (8, 6), "fsdp", "tensor"), "b": _placed(executor, (5,)), "key": _key(executor)}
    made = jax.tree.map(
        lambda one: jax.device_put(
            jax.random.key(0) if one.shape == () else jnp.zeros(one.shape, one.dtype), one.sharding
        ),
        tree,
    )
    first = [leaf.addressable_shards[0].data for leaf in (made["a"], made["b"], jax.random.key_data(made["key"]))]
    assert bytes_on_a_device(tree) == sum(shard.nbytes for shard in first) == 4 * 4 * 3 + 4 * 5 + 8


def _key(executor: MeshExecutor) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct((), key.dtype, sharding=NamedSharding(executor.mesh, PartitionSpec()))


def test_the_needs_of_a_product_by_hand(executor: MeshExecutor) -> None:
    """(32, 64) by (64, 16), of which the second is split over four devices by the rules and the first over two."""
    rows, kernel = _placed(executor, (32, 64), ("data", "fsdp")), _placed(executor, (64, 16), "fsdp", "tensor")
    program = Program("one.product", lambda w, x, axis_name: (x @ w,), ("state", "rows"), ("rows",))
    resident = {"parameters": kernel, "optimizer": [kernel, kernel], "frozen": None, "batch": rows}
    found = needs_of(Planned(program, (kernel, rows), resident, 65536.0), executor)
    memory = found.memory
    assert memory is not None
    assert (memory.parameters, memory.optimizer, memory.frozen, memory.batch) == (32 * 8 * 4, 2 * 1024, 0, 16 * 64 * 4)
    assert (memory.padding, memory.results, memory.cache) == (0, 16 * 16 * 4, 0)
    assert memory.total == found.used == 1024 + 2048 + 4096 + 1024 + memory.temporaries + memory.code
    assert found.fits
    # Each device has 16 rows and at least 8 columns of the result.
    assert 2 * 16 * 64 * 8 <= found.flops <= 2 * 16 * 64 * 16
    assert found.model_flops == 65536 / 4
    assert found.devices == 4
    assert {axis for one in found.collectives for axis in one.axes} <= {"fsdp", "tensor"}
    assert any("fsdp" in one.axes for one in found.collectives)


def test_sums_by_axes() -> None:
    def one(axes: tuple[str, ...], times: int, size: int, sent: int) -> Collective:
        return Collective("all-gather", axes, 2, times, True, size, sent, "")

    found = (one(("fsdp",), 3, 10, 5), one(("tensor",), 1, 7, 2), one(("fsdp",), 1, 1, 1))
    assert by_axes(found) == {("fsdp",): (31, 16), ("tensor",): (7, 2)}


def test_only_where_a_save_may_still_read_it_a_state_is_kept() -> None:
    assert [programs.donated(name) for name in ("cpu", "gpu", "tpu")] == [(), (0,), (0,)]


def test_memory_of_devices() -> None:
    """A chip of v3 or TPU7x is two devices, as jax counts them, which share its 32 or 192 GiB; one of v4 is one."""
    kinds = ("TPU v3", "TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x")
    found = [memory_of(SimpleNamespace(device_kind=kind, platform="tpu")) / GIB for kind in kinds]
    assert found == [16, 32, 16, 95, 32, 96]
    told = SimpleNamespace(device_kind="H", platform="gpu", memory_stats=lambda: {"bytes_limit": 7})
    assert memory_of(told) == 7
    with pytest.raises(UserError, match=r"^plan: devices of kind 'X' do not say how much memory they have$"):
        memory_of(SimpleNamespace(device_kind="X", platform="tpu", memory_stats=lambda: None))
    whole = next(
        int(line.split()[1]) * 1024
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert memory_of(jax.devices()[0]) == pytest.approx(whole / jax.device_count(), rel=1e-3)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("JAX TPU support not installed; cannot generate TPU topology.", "the extra tpu"),
        ("ABORTED: Internal error when accessing libtpu multi-process lockfile. Run rm", "another process holds"),
        ("INVALID_ARGUMENT: Invalid TPU external name: TPU v5q", "did you mean v5p:4x4x4? (Invalid TPU external name"),
    ],
)
def test_why_a_topology_is_not_to_be_had(said: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(devices.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError) as error:
        topology_devices("v5q:4x4x4")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
