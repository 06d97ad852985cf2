"""The devices that a plan is made for: those that are there, or those of a TPU pod that is not; and what each holds."""

import difflib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from rlhf_jax.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
    """Of one device as jax counts them: GiB of memory, and dense bfloat16 products in FLOP/s."""

    memory: float
    flops: float


# Published by the maker for a chip; a chip of v2, v3 and TPU7x is two devices, which share it.
CHIPS = {
    "TPU v2": Chip(8, 22.5e12),
    "TPU v3": Chip(16, 61.5e12),
    "TPU v4": Chip(32, 275e12),
    "TPU v5 lite": Chip(16, 197e12),
    "TPU v5": Chip(95, 459e12),
    "TPU v6 lite": Chip(32, 918e12),
    "TPU7x": Chip(96, 1153.5e12),
}
# What a topology is called, and what its device_kind is.
FLAT, CUBIC = ("v2", "v3", "v5e", "v6e"), ("v4", "v5p", "tpu7x")
EXAMPLES = tuple(f"{name}:{a}x{b}" for name in FLAT for a in (2, 4, 8, 16) for b in (2, 4, 8, 16) if a <= b) + tuple(
    f"{name}:{a}x{b}x{c}" for name in CUBIC for a in (2, 4, 8) for b in (2, 4, 8) for c in (1, 2, 4, 8, 16) if a <= b
)


def topology_devices(name: str) -> Sequence[jax.Device]:
    """The devices of a TPU topology such as v5p:4x4x4, described by libtpu; none of them need exist.

    Raises:
      UserError: libtpu is not installed or in use elsewhere, or there is no such topology.
    """
    # jax takes the two cores of a v4 for one device, which libtpu does if it is asked to.
    cores = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    try:
        return topologies.get_topology_desc(topology_name=name, platform="tpu", **cores).devices
    except Exception as error:
        text = " ".join(str(error).split())
    if "not installed" in text or "libtpu.so" in text:
        raise UserError(
            "--topology: the TPU compiler is not installed; it is the extra tpu: pip install 'rlhf_jax[tpu]'"
        )
    if "lockfile" in text or "already in use" in text:
        raise UserError(
            "--topology: another process holds the TPU compiler, which serves one at a time; try again when that has "
            "ended (if none is running, remove /tmp/libtpu_lockfile)"
        )
    near = difflib.get_close_matches(name, EXAMPLES, n=1, cutoff=0.0)
    reason = text.partition("INVALID_ARGUMENT: ")[2] or text
    raise UserError(f"--topology: {name!r} is none; did you mean {near[0]}? ({reason[:120]})")


def memory_of(device: Any) -> int:
    """Bytes of memory that one jax device has: a chip's, or of a host's device its share of the host's.

    Raises:
      UserError: it is of a kind that this table lacks and says nothing itself.
    """
    chip = CHIPS.get(device.device_kind)
    if chip is not None:
        return int(chip.memory * GIB)
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // max(jax.device_count(), 1)
    stats = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        raise UserError(f"plan: devices of kind {device.device_kind!r} do not say how much memory they have")
    return int(stats["bytes_limit"])


def flops_of(device: Any) -> float | None:
    """Peak FLOP/s of a device in bfloat16, None where this table lacks it."""
    chip = CHIPS.get(device.device_kind)
    return None if chip is None else chip.flops
