"""Several processes of one run, on the devices that one CPU plays, and the same run in one process."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from tests.end_to_end import tiny

DEVICES = 4  # of all processes together
STAGES = ("sft", "reward", "segments", "ppo", "critique", "dpo", "online")
# Every stage, and what is read back or put together on the host between two steps.
COMMAND = (
    f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
    *tiny.PIPELINE,
    f"--config.stages={','.join(STAGES)}",
    "--config.data.task=local",
    "--config.data.max_response=32",
    "--config.data.list_size=4",
    "--config.reward.eval_train=0",
    "--config.segments.kinds=plain:sub_sentence,short:sequence",
    "--config.segments.steps=2",
    "--config.ppo.iterations=2",
    "--config.ppo.rollout_rows=8",
    "--config.ppo.normalize_reward=True",
    "--config.ppo.pretraining.coefficient=0.1",
    "--config.ppo.pretraining.rows=4",
    "--config.lora.rank=2",
    "--config.lora.stages=ppo,dpo",
    "--config.critique.batch_size=8",
    "--config.critique.steps=2",
    "--config.critique.first_steps=1",
    "--config.critique.samples=1",
    "--config.dpo.steps=3",
    "--config.dpo.reference=precomputed",
    "--config.online.iterations=2",
)
FSDP = ("--config.parallel.fsdp=4",)
TENSOR = ("--config.parallel.data=2", "--config.parallel.tensor=2")


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
    stall: Mapping[int, int] | None = None,
    devices: int = DEVICES,
    left: int | None = None,
) -> list[Ended]:
    """``python -m module words`` as ``count`` processes that find each other, in the order of their numbers.

    ``stall`` has the seconds after which a process ends that makes no step; others wait. ``left`` is a process that
    does not end by itself: it is killed when the others have ended. What is printed comes without what Gloo says of its
    connections.
    """
    told = {
        "RLHF_JAX_COORDINATOR": f"localhost:{free_port()}",
        "RLHF_JAX_PROCESSES": str(count),
        "RLHF_JAX_HEARTBEAT": str(heartbeat),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // count}",
        "PYTHONPATH": str(tiny.ROOT),
        "OMP_NUM_THREADS": "1",
        "NPROC": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=tiny.ROOT,
            env={
                **os.environ,
                **told,
                "RLHF_JAX_PROCESS_ID": str(number),
                "RLHF_JAX_STALL": str((stall or {}).get(number, 0)),
            },
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
    (ended,) = run_together("tests.multiprocess.child", 1, "", *COMMAND, *FSDP, f"--workdir={workdir}")
    assert ended.code == 0, ended.err
    return workdir
