"""A process that is alive but gets nowhere: a read that hangs, a collective that somebody never comes to.

Nobody misses its heartbeats, so a thread counts the time between the boundaries of steps. Where that is too long, the
thread writes down where every thread stands, tells the other processes, and ends this one so that the run can be
started again. Code that hangs while it holds the interpreter's lock keeps this thread, too, from running.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

from rlhf_jax.errors import INTERRUPTED, UserError
from rlhf_jax.parallel.failures import POLL, STALLED, LastWords, end_with, let_others_hear, say, show_stacks

STALL = "RLHF_JAX_STALL"
# The preparation of a stage, its first steps, in which programs are compiled, and each evaluation may take so many
# times as long as any other step.
PATIENCE, COMPILING = 4, 2

Result = TypeVar("Result")


def limit() -> int:
    """Seconds that a step may take, 0 for any number of them.

    Raises:
      UserError: the variable is no number of seconds.
    """
    text = os.environ.get(STALL, "3600")
    if not text.isdecimal():
        raise UserError(f"{STALL}: {text!r} is not a number of seconds; 0 waits for ever")
    return int(text)


class Watch:
    """Counts the time between two signs of progress."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._steps = 0  # boundaries passed since the stage began
        self._allowed = PATIENCE * seconds
        self._since = self._looked = clock()

    def begin(self) -> None:
        """A stage begins."""
        self._steps = 0
        self._progress(PATIENCE)

    def step(self) -> None:
        """A boundary between two steps is passed, the one before the first among them."""
        self._steps += 1
        self._progress(self._patience())

    def patiently(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, which may take longer than a step."""

        def called(*args: object) -> Result:
            self._progress(PATIENCE)
            try:
                return function(*args)
            finally:
                self._progress(self._patience())

        return called

    def overdue(self) -> float:
        """Seconds since the last sign of progress, if they are more than is allowed, else 0. To be asked every POLL.

        What passed while nobody could ask (the whole process was suspended) does not count.
        """
        now = self._clock()
        if now - self._looked > 10 * POLL:
            self._since += now - self._looked
        self._looked = now
        waited = now - self._since
        return waited if waited > self._allowed else 0.0

    def _patience(self) -> int:
        return 1 if self._steps > COMPILING else PATIENCE

    def _progress(self, times: int) -> None:
        self._since, self._allowed = self._clock(), times * self._seconds


@contextlib.contextmanager
def watching(last_words: LastWords) -> Iterator[Watch]:
    """The ``Watch`` of a run, on which a thread keeps an eye until the end of the block.

    ``last_words`` gets the exit code and the reason of an end that it is the cause of.
    """
    seconds, ended = limit(), threading.Event()
    watch = Watch(seconds)
    if seconds:
        threading.Thread(target=_look, args=(watch, ended, last_words), daemon=True).start()
    try:
        yield watch
    finally:
        ended.set()


def _look(watch: Watch, ended: threading.Event, last_words: LastWords) -> None:
    while not ended.wait(POLL):
        if waited := watch.overdue():
            show_stacks()
            if jax.process_count() > 1:
                say(STALLED, str(jax.process_index()))
            reason = f"no step for {waited:.0f} s ({STALL}={limit()})"
            let_others_hear()
            return end_with(INTERRUPTED, reason, last_words)
