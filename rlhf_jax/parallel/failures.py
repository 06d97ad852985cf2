"""What becomes of a run in several processes when one of them fails or is lost: all end, within seconds.

A process that fails says so with its exit code, and the others end with the same. One that is lost can say nothing: jax
misses its heartbeats and aborts the others, which turn that into the exit code of a run that may be started again. Of
one that is alive and gets nowhere stalls.py knows.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from rlhf_jax.errors import INTERRUPTED, exit_code
from rlhf_jax.foreign import one_line
from rlhf_jax.parallel import processes

# What any process says first: the name of a signal, an exit code, the number of a process that gets nowhere. A run that
# is to stop may still fail or stall.
STOP, FAILED, STALLED = "rlhf_jax/stop", "rlhf_jax/failed", "rlhf_jax/stalled"
POLL = 0.5  # seconds between two looks at what other processes say
ANSWER = 2.0  # seconds that the service of a sound run has to answer in

LastWords = Callable[[int, str], None]


@contextlib.contextmanager
def failing_together(last_words: LastWords) -> Iterator[None]:
    """End with all other processes, where there are any: whoever fails inside the block takes them along.

    ``last_words`` gets the exit code and the reason of an end that another process is the cause of.
    """
    if jax.process_count() == 1:
        yield
        return
    _end_where_another_is_lost(last_words)
    try:
        yield
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Perhaps another process was lost under a collective; if so, this wait will not come to its end.
            time.sleep(2 * processes.heartbeat())
        code = exit_code(error)
        say(FAILED, str(code))
        # The way out of Python waits for all other processes, which may be waiting for this one.
        atexit.register(_leave_behind, code)
        raise


def say(what: str, word: str) -> None:
    """Tell all processes, unless one of them has said so before."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        processes.client().key_value_set(what, word)


def heard(what: str) -> str:
    """What was said, "" if nothing."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        return processes.client().key_value_try_get(what)
    return ""


def show_stacks() -> None:
    """Where every thread stands, on standard error."""
    with contextlib.suppress(Exception):  # of a stream that is no file
        sys.stderr.flush()
        faulthandler.dump_traceback(sys.stderr, all_threads=True)


def let_others_hear() -> None:
    """Wait until they know why this process ends: with it they lose a collective, or the line on which they hear."""
    if jax.process_count() > 1:
        time.sleep(3 * POLL)


def end_with(code: int, reason: str, last_words: LastWords) -> None:
    """End this process at once for what another one has come to."""
    print(f"rlhf-jax: process {jax.process_index()} ends: {one_line(reason)}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        last_words(code, reason)
    _leave(code)


def _leave_behind(code: int) -> None:
    let_others_hear()
    _leave(code)


def _leave(code: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _end_where_another_is_lost(last_words: LastWords) -> None:
    """Have jax's abort end with INTERRUPTED; an abort for any other reason stays one.

    jax offers no hook: it logs the error and calls abort(). A handler of Python's own would never run, for it waits for
    the interpreter, so this one is set by the C library.
    """
    library = ctypes.CDLL(None)

    def aborted(_: int) -> None:
        if not _service_answers():
            end_with(INTERRUPTED, "another process was lost", last_words)
        library.signal(signal.SIGABRT, None)
        os.abort()

    global _handler  # or it would be collected
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    library.signal(signal.SIGABRT, _handler)


_handler: Any = None


def _service_answers() -> bool:
    """Whether this process is still a part of a sound run."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):
            processes.client().key_value_increment("rlhf_jax/asked", 1)
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER)
    return answered.is_set()
