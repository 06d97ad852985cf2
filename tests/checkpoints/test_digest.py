"""The checksum is what its formula says, wherever the array lies, and one bit less or more is another."""

import dataclasses
import itertools
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.checkpoints.digest import Leaf, digest, fingerprint, forms
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor

ROOT = pathlib.Path(__file__).parents[2]


def finaliser(bits: int) -> int:
    """MurmurHash3's, by integers of any length."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = ((bits ^ (bits >> shift)) * factor) % 2**32
    return bits ^ (bits >> 16)


def checksum(bits: np.ndarray) -> str:
    """Of an array of unsigned integers of at most 32 bits, element by element."""
    sums = [0, 0]
    for place, value in enumerate(bits.reshape(-1).tolist()):
        mixed = finaliser(value ^ finaliser(place + 1))
        for lane, start in enumerate((0x9E3779B9, 0xBB67AE85)):
            sums[lane] += finaliser((mixed + start) % 2**32)
    return "".join(f"{one % 2**32:08x}" for one in sums)


def of(leaf: Any) -> str:
    return digest({"x": leaf})["x"].checksum


def test_the_finaliser_is_the_published_one() -> None:
    """Known values of MurmurHash3's fmix32."""
    assert [finaliser(i) for i in range(3)] == [0, 0x514E28B7, 0x30F4C306]


@dataclasses.dataclass(frozen=True)
class Case:
    """An array and its bits as NumPy sees them."""

    leaf: jax.Array
    bits: np.ndarray


def cases() -> dict[str, Case]:
    values = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    values[0, 0] = [np.nan, np.inf, -np.inf, -0.0, 0.0]
    narrow = jnp.asarray(values, jnp.bfloat16)
    small = np.random.default_rng(1).integers(-128, 128, (4, 6)).astype(np.int8)
    key = jax.random.key(7)
    return {
        "float32": Case(jnp.asarray(values), values.view(np.uint32)),
        "bfloat16": Case(narrow, np.asarray(narrow).view(np.uint16)),
        "int8": Case(jnp.asarray(small), small.view(np.uint8)),
        "uint8": Case(jnp.asarray(small.view(np.uint8)), small.view(np.uint8)),
        "int32": Case(jnp.int32(-5), np.array(-5, np.int32).view(np.uint32)),
        "bool": Case(jnp.asarray(small > 0), (small > 0).astype(np.uint8)),
        "complex64": Case(jnp.asarray(values + 1j), (values + 1j).astype(np.complex64).view(np.uint32)),
        "key": Case(key, np.asarray(jax.random.key_data(key))),
        "empty": Case(jnp.zeros((0, 3)), np.zeros(0, np.uint32)),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_it_is_what_the_formula_says(name: str) -> None:
    case = cases()[name]
    assert of(case.leaf) == checksum(case.bits)


def test_of_64_bits_both_halves_count() -> None:
    with jax.enable_x64(True):
        values = np.array([1.0, -2.5])
        assert of(jnp.asarray(values)) == checksum(values.view(np.uint32))


def test_it_is_the_same_wherever_the_arrays_lie() -> None:
    """One device, replicated, split over one axis or two."""
    values = np.random.default_rng(2).normal(size=(2, 16, 8)).astype(np.float32)
    tree = {
        "embedding": values[0],
        "layers": {"up": {"kernel": values}, "down": {"kernel_codes": values.astype(np.int8)}},
        "step": np.int32(3),
        "key": jax.random.key(1),
    }
    executors: list[Executor] = [
        MeshExecutor(jax.devices()[:1]),
        PmapExecutor(jax.devices()),
        MeshExecutor(jax.devices(), fsdp=8),
        MeshExecutor(jax.devices(), fsdp=2, tensor=4),
    ]
    placed = [executor.place(tree, "state") for executor in executors]
    assert placed[3]["layers"]["up"]["kernel"].addressable_shards[0].data.size < values.size / 4
    found = [digest(one) for one in placed]
    assert all(one == found[0] for one in found)
    assert found[0]["layers.up.kernel"] == Leaf("float32", (2, 16, 8), checksum(values.view(np.uint32)))
    assert {name: leaf._replace(checksum="") for name, leaf in found[0].items()} == forms(tree)


def test_every_single_bit_counts_and_so_do_pairs() -> None:
    """Of a sum of products with odd numbers every two flipped signs would leave nothing behind."""
    bits = np.random.default_rng(3).integers(0, 2**32, 6, dtype=np.uint32)
    flips = [[(place, bit)] for place in range(6) for bit in range(32)]
    flips += [[(one, 31), (other, 31)] for one, other in itertools.combinations(range(6), 2)]
    changed = {}
    for number, flip in enumerate(flips):
        other = bits.copy()
        for place, bit in flip:
            other[place] ^= np.uint32(1) << np.uint32(bit)
        changed[str(number)] = jnp.asarray(other)
    for one, other in itertools.combinations(range(6), 2):
        swapped = bits.copy()
        swapped[[one, other]] = swapped[[other, one]]
        changed[f"{one}, {other}"] = jnp.asarray(swapped)
    # In one array each, not a leaf each: it is one program, and its size is what compiling takes.
    found = [checksum(np.asarray(other)) for other in changed.values()]
    assert len({*found, of(jnp.asarray(bits))}) == len(changed) + 1
    for name in ("0", "100", "192", "206", "0, 5"):
        assert of(changed[name]) == checksum(np.asarray(changed[name]))


def test_the_fingerprint_is_that_of_what_is_read_back() -> None:
    values = {"b": (1, 2.5), 3: None}
    assert fingerprint(values) == fingerprint({"3": None, "b": [1, 2.5]})
    assert fingerprint(values) != fingerprint({"3": None, "b": [1, 2.500000001]})


CROWDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from rlhf_jax.checkpoints.digest import digest
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
split = NamedSharding(mesh, P("fsdp"))
leaves = [jax.device_put(jnp.ones((64, 64)), split) for _ in range(60)]
@jax.jit
def step(leaves):
    x = jax.lax.with_sharding_constraint(jnp.ones((16, 64)), NamedSharding(mesh, P("data")))
    for leaf in leaves:
        x = jnp.tanh(x @ jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, P())))
    return [jax.lax.with_sharding_constraint(leaf + 1e-9 * x.sum(), split) for leaf in leaves]
for _ in range(20):
    leaves = step(leaves)
    digest(leaves)
"""


@pytest.mark.slow
def test_devices_that_share_threads_do_not_wait_for_each_other_for_ever() -> None:
    """XLA ends a process of which some devices have come to a meeting, and the others do not for so many seconds."""
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=20"
    environment = {**os.environ, "XLA_FLAGS": flags, "NPROC": "1"}
    done = subprocess.run([sys.executable, "-c", CROWDED], env=environment, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
