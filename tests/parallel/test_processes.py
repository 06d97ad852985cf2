"""Who tells a process of the others, and what is refused."""

from typing import Any

import jax
import numpy as np
import pytest

from rlhf_jax.build.context import make_executor
from rlhf_jax.config import default_config
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import is_first, processes, to_host, wait_for_all

TOLD = (processes.COORDINATOR, processes.PROCESSES, processes.PROCESS_ID, processes.HEARTBEAT)
LAUNCHERS = (*processes.COUNTED, *processes.LISTED, processes.STEP_OF_SLURM)


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TOLD, *LAUNCHERS):
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch: pytest.MonkeyPatch, *values: str) -> dict[str, Any] | None:
    for name, value in zip(TOLD, values, strict=False):
        monkeypatch.setenv(name, value)
    return processes._told()


def test_a_process_is_alone_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes._told() is None
    assert told(monkeypatch, "here:1", "1", "0") is None
    assert told(monkeypatch, "[::1]:8476", "3", "2") == {
        "coordinator_address": "[::1]:8476",
        "num_processes": 3,
        "process_id": 2,
    }
    assert told(monkeypatch, "auto", "", "") == {}


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}, True),
        ({"SLURM_NTASKS": "2"}, False),  # the batch script, outside srun
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, True),
    ],
)
def test_launchers_that_jax_knows_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], several: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes._told() == ({} if several else None)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (("here:1",), "RLHF_JAX_PROCESSES: not set, but RLHF_JAX_COORDINATOR is"),
        (("", "2", "0"), "RLHF_JAX_COORDINATOR: not set, but RLHF_JAX_PROCESSES is"),
        (("here", "2", "0"), "RLHF_JAX_COORDINATOR: 'here' is not HOST:PORT"),
        (("here:port", "2", "0"), "RLHF_JAX_COORDINATOR: 'here:port' is not HOST:PORT"),
        (("here:1", "two", "0"), "RLHF_JAX_PROCESSES: 'two' is not a number"),
        (("here:1", "2", "-1"), "RLHF_JAX_PROCESS_ID: '-1' is not a number"),
        (("here:1", "2", "2"), "RLHF_JAX_PROCESS_ID: 2 is not below RLHF_JAX_PROCESSES, which is 2"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], line: str
) -> None:
    with pytest.raises(UserError) as refused:
        told(monkeypatch, *values)
    assert str(refused.value) == line


def test_the_heartbeat_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.heartbeat() == 10
    monkeypatch.setenv(processes.HEARTBEAT, "3")
    assert processes.heartbeat() == 3
    monkeypatch.setenv(processes.HEARTBEAT, "0")
    with pytest.raises(UserError, match="RLHF_JAX_HEARTBEAT: '0' is not a number of seconds"):
        processes.heartbeat()


def test_one_process_is_the_first_and_waits_for_nobody() -> None:
    assert is_first()
    wait_for_all("nothing")
    tree = {"a": jax.numpy.arange(3), "b": np.float32(2), "c": None}
    found = to_host(tree)
    assert isinstance(found["a"], np.ndarray)
    assert found["b"] == 2
    assert found["c"] is None


def test_pmap_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parallel = default_config().parallel
    parallel.mode = "pmap"
    line = "config.parallel.mode: pmap runs in one process, and this run has 2; choose mesh"
    with pytest.raises(UserError) as refused:
        make_executor(parallel)
    assert str(refused.value) == line
