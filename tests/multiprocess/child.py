"""One process of a run on a slice of the embedded world: ``python -m tests.multiprocess.child ORDER [arguments]``.

ORDER is empty or ``PROCESS:STAGE:STEP``: before that step of that stage, that process of the run gets SIGTERM; with
``:stall`` behind it, it sleeps instead.
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


def stop_at(process: int, stage: str, step: int, *, stall: bool) -> None:
    """Have it befall the process when the step comes."""
    make_task = rlhf_jax.run.make_task

    def make(context: Any, name: str) -> Task:
        task = make_task(context, name)

        def ordered(state: Any, batch: Any) -> Any:
            if (jax.process_index(), name, int(state.step) + 1) == (process, stage, step):
                if not stall:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(3600 if stall else 0.3)  # until the thread that reads signals has read it
            return task.step(state, batch)

        return dataclasses.replace(task, step=ordered)

    rlhf_jax.run.make_task = make


if __name__ == "__main__":
    if sys.argv[1]:
        which, at_stage, at_step, *how = sys.argv[1].split(":")
        stop_at(int(which), at_stage, int(at_step), stall=how == ["stall"])
    tiny.launch(*sys.argv[2:], report=False)
