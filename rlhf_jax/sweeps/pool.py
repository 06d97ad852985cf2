"""Several workers on this host: processes that are started, told to stop, and replaced when the system kills them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rlhf_jax.errors import INTERRUPTED, USER_ERROR
from rlhf_jax.sweeps.queue import is_over

POLL = 0.2  # seconds between two looks at the workers
LIVES = 20  # workers in a row that the system may kill before any of them ends a trial


def run_pool(folder: Path, workers: int, lease: float) -> int:
    """Have so many workers work on the sweep to its end; returns the exit code."""
    with _orders() as ordered:
        running = [_start(folder, workers, lease) for _ in range(workers)]
        codes: list[int] = []
        killed, ended_before, told = 0, -1, False
        while running:
            time.sleep(POLL)
            if (ordered.is_set() or USER_ERROR in codes or 1 in codes) and not told:
                told = True
                for worker in running:
                    worker.terminate()
            for worker in [one for one in running if one.poll() is not None]:
                running.remove(worker)
                code = worker.returncode
                if code >= 0 or told:
                    codes.append(code)
                    continue
                ended = len(list((folder / "trials").glob("*/summary.json")))
                killed, ended_before = (killed + 1, ended) if ended == ended_before else (1, ended)
                if killed > LIVES:
                    codes.append(INTERRUPTED)
                    continue
                print(f"a worker was killed by {signal.Signals(-code).name}; another takes its place", flush=True)
                running.append(_start(folder, workers, lease))
    code = _worst(codes)
    # What a worker left that stalled or was killed too often, the others may have brought to its end.
    return 0 if code == INTERRUPTED and not ordered.is_set() and is_over(folder) else code


def _worst(codes: list[int]) -> int:
    """The pool's exit code: what the user must mend, an error, an interruption, in this order."""
    for code in (USER_ERROR, 1):
        if code in codes:
            return code
    return INTERRUPTED if any(codes) else 0


def _start(folder: Path, workers: int, lease: float) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    # Each would start a pool of threads as wide as the machine. NPROC is XLA's own name for its width.
    for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.setdefault(name, str(max(1, (os.cpu_count() or 1) // workers)))
    words = [sys.executable, "-m", "rlhf_jax", "sweep", str(folder), "--workers=1", f"--lease={lease:g}", "--quiet"]
    return subprocess.Popen(words, env=environment)  # noqa: S603 our own program, no shell


@contextlib.contextmanager
def _orders() -> Iterator[threading.Event]:
    """Set when a signal asks for an end."""
    ordered = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: ordered.set()) for number in numbers}
    try:
        yield ordered
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
