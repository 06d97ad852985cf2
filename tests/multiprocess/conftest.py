"""Several processes of one run, on the devices that one CPU plays, and the same run in one process."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from tests.end_to_end import tiny

DEVICES = 4  # of all processes together
STAGES = ("sft", "reward", "ppo")
COMMAND = (
    f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
    *tiny.PIPELINE,
    f"--config.stages={','.join(STAGES)}",
    "--config.ppo.iterations=2",
    "--config.parallel.fsdp=4",
)


class Ended(NamedTuple):
    """How a process ended: its exit code (negative: by a signal), what it printed, and when, in seconds."""

    code: int
    out: str
    err: str
    at: float


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("localhost", 0))
        return own.getsockname()[1]


def run_together(
    module: str,
    count: int,
    *words: str,
    heartbeat: int = 10,
    stall: int = 0,
    devices: int = DEVICES,
    left: int | None = None,
) -> list[Ended]:
    """``python -m module words`` as ``count`` processes that find each other, in the order of their numbers.

    ``left`` is a process that does not end by itself: it is killed when the others have ended. What is printed comes
    without what Gloo says of its connections.
    """
    told = {
        "RLHF_JAX_COORDINATOR": f"localhost:{free_port()}",
        "RLHF_JAX_PROCESSES": str(count),
        "RLHF_JAX_HEARTBEAT": str(heartbeat),
        "RLHF_JAX_STALL": str(stall),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // count}",
        "PYTHONPATH": str(tiny.ROOT),
        "OMP_NUM_THREADS": "1",
        "NPROC": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=tiny.ROOT,
            env={**os.environ, **told, "RLHF_JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        ended_at: dict[int, float] = {}
        while len(ended_at) < count:
            for number, process in enumerate(started):
                if number not in ended_at and process.poll() is not None:
                    ended_at[number] = time.monotonic()
            if left is not None and len(ended_at) == count - 1:
                started[left].kill()
            time.sleep(0.02)
    finally:
        for process in started:
            process.kill()
    ended = []
    for number, process in enumerate(started):
        out, err = process.communicate()
        kept = "".join(line for line in out.splitlines(keepends=True) if not line.startswith("[Gloo]"))
        ended.append(Ended(process.returncode, kept, err, ended_at[number]))
    return ended


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of the whole run in one process with all the devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    (ended,) = run_together("tests.multiprocess.child", 1, "", *COMMAND, f"--workdir={workdir}")
    assert ended.code == 0, ended.err
    return workdir
