"""Orders to stop: signals to one process, agreed on by all, heeded between two steps.

The first SIGTERM or SIGINT asks for an end after the step under way; a second one ends the process at once. Signals are
read by a thread of their own: the main one may be waiting for the devices, where Python would not get round to them.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import jax

from rlhf_jax.errors import INTERRUPTED
from rlhf_jax.parallel import processes
from rlhf_jax.parallel.failures import FAILED, POLL, STALLED, STOP, LastWords, end_with, heard, say, show_stacks

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ORDERS = tuple(signal.Signals(number).name for number in SIGNALS)
ONE_ORDER = 0.5  # seconds: launchers often signal a process and then its group, which is no second order


class Stop:
    """Called at every step boundary, in the same order by all processes; True from the one on that they agreed on.

    ``reason`` then is the name of the signal.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._boundary = 0  # calls so far
        self._last: int | None = None  # the boundary to stop at
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self._boundary += 1
            return self._last is not None and self._boundary >= self._last

    def ask(self, name: str) -> None:
        """Have all processes stop at the next boundary that none of them has passed.

        A signal is the reason also of a stop that was asked for before without one; nothing takes its place.
        """
        if jax.process_count() > 1:
            say(STOP, name)
            return
        with self._lock:
            if self._last is None:
                self._last = self._boundary + 1
            if not self.reason or name in ORDERS:
                self.reason = name

    def agree(self, name: str) -> None:
        """Settle the boundary with all processes, each of which has to come here."""
        line = processes.client()
        # Meanwhile nobody passes another boundary, so that the one after the furthest is still before everybody.
        with self._lock:
            line.key_value_set(f"rlhf_jax/boundary/{jax.process_index()}", str(self._boundary))
            line.wait_at_barrier("rlhf_jax/boundaries", processes.LONG)
            furthest = max(int(value) for _, value in line.key_value_dir_get("rlhf_jax/boundary/"))
            self.reason, self._last = name, furthest + 1


@contextlib.contextmanager
def heeding_others(last_words: LastWords) -> Iterator[Stop]:
    """The ``Stop`` that signals ask, to this process or to any other of the run, until the end of the block.

    Signals stay as they were outside the main thread. ``last_words`` gets the exit code and the reason where another
    process fails or stalls.
    """
    stop, ended = Stop(), threading.Event()
    with contextlib.ExitStack() as stack:
        if jax.process_count() > 1:
            listener = threading.Thread(target=_listen_to_others, args=(stop, ended, last_words), daemon=True)
            listener.start()
            stack.callback(ended.set)
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(_signals_to(stop))
        yield stop


@contextlib.contextmanager
def _signals_to(stop: Stop) -> Iterator[None]:
    read, write = os.pipe()
    os.set_blocking(write, False)
    # A handler in Python must be there for the number of the signal to be written; the thread does the rest.
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    pipe_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    reader = threading.Thread(target=_listen_to_signals, args=(read, stop), daemon=True)
    reader.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)
        reader.join()
        os.close(read)


def _listen_to_signals(pipe: int, stop: Stop) -> None:
    first = None
    while byte := os.read(pipe, 1):
        number = byte[0]
        if number not in SIGNALS:
            continue
        name = signal.Signals(number).name
        if first is None:
            first = time.monotonic()
            _tell(f"{name}: stopping after the step under way, with a checkpoint; a second signal ends this at once")
            stop.ask(name)
        elif time.monotonic() - first > ONE_ORDER:
            _tell(f"{name}: ended at once; the same command goes on from the last checkpoint")
            os._exit(128 + number)


def _listen_to_others(stop: Stop, ended: threading.Event, last_words: LastWords) -> None:
    agreeing = None
    while not ended.wait(POLL):
        if code := heard(FAILED):
            return end_with(int(code), "another process failed", last_words)
        if (number := heard(STALLED)) and number != str(jax.process_index()):
            show_stacks()  # of this one too: the first to say so may only be waiting for it
            return end_with(INTERRUPTED, f"process {number} made no step", last_words)
        if agreeing is None and (name := heard(STOP)):
            # In a thread of its own: whoever fails before it has come there keeps the others waiting.
            agreeing = threading.Thread(target=_agree, args=(stop, name), daemon=True)
            agreeing.start()


def _agree(stop: Stop, name: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # some have ended meanwhile, and there is nothing to stop
        stop.agree(name)


def _tell(text: str) -> None:
    print(f"rlhf-jax: {text}", file=sys.stderr, flush=True)
