"""One of several processes that compute together until something befalls one: ``python -m tests.multiprocess.failing
PROCESS:WHAT FOLDER``, WHAT being "error", "user_error", "abort" (of the process by itself), "stall" (it sleeps) or the
name of a signal.

Ends with 0 after the order to stop; whoever ends because of another leaves its code and the reason in FOLDER.
"""

import itertools
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.parallel import MeshExecutor, failing_together, heeding_others, join, watching


def main(process: int, what: str, folder: pathlib.Path) -> None:
    join()
    executor = MeshExecutor(jax.devices())
    total = executor.compile(lambda rows, axis_name: (jnp.sum(rows),), ("rows",), ("replicated",))
    rows = executor.place(np.arange(8.0), "rows")

    def last_words(code: int, reason: str) -> None:
        (folder / str(jax.process_index())).write_text(f"{code} {reason}")

    with failing_together(last_words), heeding_others(last_words) as stop, watching(last_words) as watch:
        for number in itertools.count():
            watch.step()
            assert float(total(rows)[0]) == 28
            if stop():
                break
            if (number, jax.process_index()) == (20, process):
                befall(what)


def befall(what: str) -> None:
    print("now", flush=True)
    if what == "error":
        raise RuntimeError("an error of this process alone")
    if what == "user_error":
        raise UserError("something to mend")
    if what == "stall":
        time.sleep(3600)
    if what == "abort":
        os.abort()
    os.kill(os.getpid(), getattr(signal, what))


if __name__ == "__main__":
    victim, _, what_befalls = sys.argv[1].partition(":")
    main(int(victim), what_befalls, pathlib.Path(sys.argv[2]))
