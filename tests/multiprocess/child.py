"""One process of a run on a slice of the embedded world: ``python -m tests.multiprocess.child ORDER [arguments]``.

ORDER is empty or ``PROCESS:STAGE:STEP:WHAT``: before that step of that stage, that befalls that process of the run,
WHAT being "stall" (it sleeps), "error" or the name of a signal; the time, by a clock that all processes share, is
printed on standard error.
"""

import dataclasses
import os
import signal
import sys
import time
from typing import Any

import jax

import rlhf_jax.run
from rlhf_jax.loop import Task
from tests.end_to_end import tiny


def befall(process: int, stage: str, step: int, what: str) -> None:
    """Have it befall the process when the step comes."""
    make_task = rlhf_jax.run.make_task

    def make(context: Any, name: str) -> Task:
        task = make_task(context, name)

        def ordered(state: Any, batch: Any) -> Any:
            if (jax.process_index(), name, int(state.step) + 1) == (process, stage, step):
                print(f"befallen at {time.monotonic()}", file=sys.stderr, flush=True)
                if what == "error":
                    raise RuntimeError("an error of this process alone")
                if what != "stall":
                    os.kill(os.getpid(), getattr(signal, what))
                time.sleep(3600 if what == "stall" else 0.3)  # until the thread that reads signals has read it
            return task.step(state, batch)

        return dataclasses.replace(task, step=ordered)

    rlhf_jax.run.make_task = make


if __name__ == "__main__":
    if sys.argv[1]:
        which, at_stage, at_step, mishap = sys.argv[1].split(":")
        befall(int(which), at_stage, int(at_step), mishap)
    tiny.launch(*sys.argv[2:], report=False)
