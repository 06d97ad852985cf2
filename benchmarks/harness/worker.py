"""One side of a benchmark: a process that does a round of work when it is told to, and answers what the round took.

    python -m benchmarks.harness.worker SIDE CASE

``SIDE`` is a module of ``benchmarks.sides`` with a function ``main(line, case)``; ``CASE`` is JSON. The process talks
JSON lines: a command on its input, ``{"do": NAME}``, is answered by one line on its output. What libraries print goes
to standard error. PyTorch and JAX never share a process, for their thread pools and allocators would share a machine
in ways that neither of them has alone.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Case = dict[str, Any]
Answer = dict[str, Any]


class Line:
    """The talk with the driver, on what were standard input and output when the process began."""

    def __init__(self) -> None:
        self._in, self._out = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whoever prints from here on prints to the log

    def hear(self) -> str:
        """The next command; ``end`` when the driver is gone."""
        text = self._in.readline()
        return json.loads(text)["do"] if text else "end"

    def say(self, answer: Answer) -> None:
        """Answer a command."""
        print(json.dumps(answer), file=self._out, flush=True)


def processor_seconds() -> float:
    """CPU seconds of this process so far, all its threads, in user and system mode."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def measured(found: Answer) -> Iterator[None]:
    """Put the CPU and wall seconds of the block into ``found``."""
    cpu, wall = processor_seconds(), time.perf_counter()
    yield
    found |= {"cpu": processor_seconds() - cpu, "wall": time.perf_counter() - wall}


def serve(line: Line, actions: dict[str, Callable[[], Answer]]) -> None:
    """Say that the side is ready, then do what is asked until the end. Actions measure themselves."""
    line.say({"ready": True, "cpu": processor_seconds()})
    while (command := line.hear()) != "end":
        line.say(actions[command]())


def confine(threads: int) -> None:
    """Keep the process on ``threads`` cores, the last ones it may use: XLA, PyTorch, OpenMP and tokenizers all size
    their pools by that when they are imported afterwards.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-threads:])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def main() -> None:
    """Be the side that the command line names."""
    line, case = Line(), json.loads(sys.argv[2])
    confine(case["threads"])
    importlib.import_module(f"benchmarks.sides.{sys.argv[1]}").main(line, case)


if __name__ == "__main__":
    main()
