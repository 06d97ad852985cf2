"""A small PPO run that goes on and on, watched from outside: memory, open files, threads, compilations.

    python -m tests.reliability.soak [--minutes=120]

Checkpoints are saved and policies evaluated all the while. Prints one JSON line: what was watched from the end of the
warm-up on, and the growth of the memory by least squares, per hour of what there was.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from rlhf_jax.metrics import read_jsonl
from tests.end_to_end import tiny

WARM_UP = 50  # iterations: two evaluations and two checkpoints are among them
COMPILED = "Finished XLA compilation"
COMMAND = (
    *tiny.SIZE,
    "--config.sft.steps=2",
    "--config.reward.steps=2",
    "--config.ppo.iterations=100000000",
    "--config.ppo.eval_every=20",
    "--config.log.every=10",
    "--config.checkpoint.every_iterations=20",
)


def soak(folder: pathlib.Path, seconds: float) -> dict[str, Any]:
    """Watch a run for so long after its warm-up, then end it by a signal."""
    words = [sys.executable, "-m", "rlhf_jax", f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}", *COMMAND]
    said = folder / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [*words, f"--workdir={folder / 'run'}"],
            cwd=tiny.ROOT,
            env={**os.environ, "JAX_LOG_COMPILES": "1"},
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
        try:
            while iteration(folder) < WARM_UP:
                assert process.poll() is None, said.read_text()[-2000:]
                time.sleep(1)
            first, begun, before = iteration(folder), time.monotonic(), compilations(said)
            seen = []
            while time.monotonic() < begun + seconds:
                assert process.poll() is None, said.read_text()[-2000:]
                seen.append((time.monotonic() - begun, *usage(process.pid)))
                time.sleep(min(5.0, seconds / 20))
            last, after = iteration(folder), compilations(said)
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(120)
        finally:
            process.kill()
    times, memory, files, threads = (np.array(column, float) for column in zip(*seen, strict=True))
    return {
        "seconds": seconds,
        "iterations": last - first,
        "memory_MiB": [round(float(memory[place]) / 2**20, 1) for place in (0, -1)],
        "memory_growth_per_hour": float(3600 * np.polyfit(times, memory, 1)[0] / memory[0]),
        "open_files": by_thirds(files),
        "threads": by_thirds(threads),
        "compiled": [before, after - before],
        "exit_code": exit_code,
    }


def by_thirds(counted: np.ndarray) -> list[int]:
    """The most of the first third and the least of the last: a save holds files and threads while it is under way."""
    third = max(len(counted) // 3, 1)
    return [int(counted[:third].max()), int(counted[-third:].min())]


def iteration(folder: pathlib.Path) -> int:
    """The newest that the run has logged."""
    rows = folder / "run" / "metrics.jsonl"
    return max((row["step"] for row in read_jsonl(rows) if row["stage"] == "ppo"), default=0) if rows.exists() else 0


def compilations(said: pathlib.Path) -> int:
    return said.read_text().count(COMPILED)


def usage(pid: int) -> tuple[int, int, int]:
    """(resident bytes, open files, threads)."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    counted = (len(os.listdir(f"/proc/{pid}/{what}")) for what in ("fd", "task"))
    return pages * os.sysconf("SC_PAGE_SIZE"), *counted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(soak(pathlib.Path(name), 60 * minutes)))
