"""One run in several processes: how they find each other, which of them writes, and how one learns what all hold.

Every process runs the same program on the same configuration and reads the same data; each computes on its own devices
the rows that lie there. What all devices see together is the same as in one process with as many devices.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from rlhf_jax.errors import UserError

# Set by whoever starts processes by hand: HOST:PORT of process 0, how many there are, and which one this is.
COORDINATOR, PROCESSES, PROCESS_ID = "RLHF_JAX_COORDINATOR", "RLHF_JAX_PROCESSES", "RLHF_JAX_PROCESS_ID"
AUTO = "auto"  # as the coordinator: jax finds all three
# Variables by which launchers that jax knows tell how many processes there are: a number, or a list with commas.
COUNTED, LISTED = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"), ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
STEP_OF_SLURM = "SLURM_STEP_NODELIST"  # set by srun alone: the batch script itself is one process
HEARTBEAT = "RLHF_JAX_HEARTBEAT"
LONG = 24 * 3600 * 1000  # milliseconds; a lost process ends a wait much earlier

_numbers = itertools.count()


def join() -> None:
    """Meet the other processes of the run, where there are any. Must come before any other use of jax.

    Raises:
      UserError: the variables that tell of the others are incomplete or make no sense.
    """
    settings = _told()
    if settings is None or jax.distributed.is_initialized():
        return
    # Orders to stop are this program's own affair: see stopping.py.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(**settings, heartbeat_timeout_seconds=heartbeat())


def _told() -> dict[str, Any] | None:
    """What to tell jax; {} if it finds everything by itself, None where this process is alone."""
    given = {name: os.environ.get(name, "") for name in (COORDINATOR, PROCESSES, PROCESS_ID)}
    address = given[COORDINATOR]
    if address == AUTO or (not any(given.values()) and _launched()):
        return {}
    if not any(given.values()):
        return None
    for name, value in given.items():
        if not value:
            raise UserError(f"{name}: not set, but {next(name for name, value in given.items() if value)} is")
    if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
        raise UserError(f"{COORDINATOR}: {address!r} is not HOST:PORT")
    for name in (PROCESSES, PROCESS_ID):
        if not given[name].isdecimal():
            raise UserError(f"{name}: {given[name]!r} is not a number")
    count, number = int(given[PROCESSES]), int(given[PROCESS_ID])
    if not number < count:
        raise UserError(f"{PROCESS_ID}: {number} is not below {PROCESSES}, which is {count}")
    if count == 1:
        return None
    return {"coordinator_address": address, "num_processes": count, "process_id": number}


def _launched() -> bool:
    told = os.environ
    if "SLURM_NTASKS" in told and STEP_OF_SLURM not in told:
        return False
    return any(int(told.get(name) or 1) > 1 for name in COUNTED) or any("," in told.get(name, "") for name in LISTED)


def heartbeat() -> int:
    """Seconds without a sign of life after which a process counts as lost."""
    text = os.environ.get(HEARTBEAT, "10")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{HEARTBEAT}: {text!r} is not a number of seconds")
    return int(text)


def is_first() -> bool:
    """Whether this is the process that writes what a run leaves behind (all of them write checkpoints)."""
    return jax.process_index() == 0


def client() -> Any:
    """The line to the other processes: a store of keys and values, and barriers."""
    # jax has no public name for it; libraries that save checkpoints from many processes use this one.
    from jax._src.distributed import global_state

    return global_state.client


def wait_for_all(name: str) -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        client().wait_at_barrier(f"rlhf_jax/{name}/{next(_numbers)}", LONG)


def all_say(name: str, word: str) -> tuple[str, ...]:
    """What each process says, in the order of their numbers. Every process must ask for it."""
    if jax.process_count() == 1:
        return (word,)
    key = f"rlhf_jax/{name}/{next(_numbers)}"
    client().key_value_set(f"{key}/{jax.process_index()}", word)
    return tuple(client().blocking_key_value_get(f"{key}/{number}", LONG) for number in range(jax.process_count()))


@contextlib.contextmanager
def first_goes_first(name: str) -> Iterator[None]:
    """Let the first process do what is inside before all others, so that they find what it made."""
    if not is_first():
        wait_for_all(name)
    try:
        yield
    finally:  # where it fails, the others try and fail in the same way
        if is_first():
            wait_for_all(name)


def to_host(tree: Any) -> Any:
    """The tree with NumPy arrays in place of all device arrays, each of them whole. Every process must ask for it."""

    def whole(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return leaf

    return jax.device_get(jax.tree.map(whole, tree))
