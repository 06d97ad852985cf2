"""What a program needs, found by compiling it: memory, FLOPs, what devices send each other; and whether it fits."""

import dataclasses
import math
import re
import time
from functools import partial
from typing import Any

import jax

from rlhf_jax.build.ahead import Planned
from rlhf_jax.build.devices import flops_of, memory_of
from rlhf_jax.parallel import Executor
from rlhf_jax.parallel.hlo import Collective, Reading, carried_like, read_program

_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a program runs.

    ``padding`` is what the compiler's layouts add to the arguments; ``results`` are those that do not take the memory
    of an argument; ``cache`` is the key-value cache, ``temporaries`` all else that the program makes on its way.
    """

    parameters: int
    optimizer: int
    frozen: int
    batch: int
    padding: int
    results: int
    cache: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Needs:
    """Of one program on one device. ``memory`` is None where the compiler gave up for want of it.

    ``used`` are the bytes in all, ``available`` those that a device has. ``flops`` are of matrix products as compiled,
    loops counted as often as they turn; ``model_flops`` a device's share of what the mathematics asks for.
    ``seconds_at_peak`` is ``flops`` at the device's peak. ``compiler_seconds`` and ``compiler_flops`` are XLA's own
    estimates, which take the body of a loop once; None where it has none. ``open_loops`` are loops of unknown length,
    counted once, ``kernels`` calls of fused kernels, whose products are in no count but the model's.
    """

    program: str
    devices: int
    available: int
    model_flops: float
    used: int
    memory: Memory | None = None
    flops: float | None = None
    compiler_flops: float | None = None
    compiler_seconds: float | None = None
    seconds_at_peak: float | None = None
    collectives: tuple[Collective, ...] = ()
    open_loops: int = 0
    kernels: int = 0
    compile_seconds: float = 0.0

    @property
    def fits(self) -> bool:
        return self.used <= self.available


def bytes_on_a_device(tree: Any) -> int:
    """Bytes of the part of a tree of placed shapes that lies on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree)
    )


def _itemsize(dtype: Any) -> int:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, jax.eval_shape(lambda: jax.random.key(0))).size * 4
    return dtype.itemsize


def needs_of(planned: Planned, executor: Executor) -> Needs:
    """Compile a program and look at it."""
    device, count, begun = executor.mesh.devices.flat[0], executor.mesh.size, time.monotonic()
    of_program = partial(Needs, planned.program.name, count, memory_of(device), planned.work / count)
    function: Any = planned.program.compile(executor)
    try:
        compiled = function.lower(*planned.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        used = _USED.search(str(error))
        if used is None:
            raise
        return of_program(int(float(used[1]) * _UNIT[used[2]]), compile_seconds=time.monotonic() - begun)
    found = read_program(compiled.as_text(), dict(executor.mesh.shape))
    memory = _memory(planned, compiled.memory_analysis(), found)
    cost, peak = compiled.cost_analysis() or {}, flops_of(device)
    return of_program(
        memory.total,
        memory,
        found.flops,
        _estimate(cost, "flops"),
        _estimate(cost, "optimal_seconds"),
        None if peak is None else found.flops / peak,
        found.collectives,
        sum(loop.turns is None for loop in found.loops),
        found.kernels,
        time.monotonic() - begun,
    )


def _estimate(cost: dict[str, float], name: str) -> float | None:
    """Of a program with kernels of unknown cost XLA says less than nothing."""
    value = cost.get(name)
    return value if value is not None and value >= 0 else None


def _memory(planned: Planned, stats: Any, found: Reading) -> Memory:
    resident = {name: bytes_on_a_device(tree) for name, tree in planned.resident.items()}
    cache = planned.cache
    carried = () if cache is None else carried_like(found.loops, cache.shape, cache.shape[2])
    cached = sum(array.bytes for array in carried)
    return Memory(
        **resident,
        padding=max(stats.argument_size_in_bytes - bytes_on_a_device(planned.arguments), 0),
        results=max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0),
        cache=min(cached, stats.temp_size_in_bytes),
        temporaries=stats.temp_size_in_bytes - min(cached, stats.temp_size_in_bytes),
        code=stats.generated_code_size_in_bytes,
    )


def by_axes(collectives: tuple[Collective, ...]) -> dict[tuple[str, ...], tuple[int, int]]:
    """(bytes of results, bytes sent) of all collectives between the same axes of the mesh, all times together."""
    sums: dict[tuple[str, ...], tuple[int, int]] = {}
    for one in collectives:
        results, sent = sums.get(one.axes, (0, 0))
        sums[one.axes] = results + one.times * one.bytes, sent + one.times * one.sent
    return sums
