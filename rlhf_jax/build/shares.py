"""What the parts of an iteration take of its wall time, seen by a host that does not hold the device up for it."""

import time
from collections.abc import Callable
from typing import Any

import jax

Spent = dict[str, float]  # seconds by part


class Shares:
    """Wall time from the end of one iteration to that of the next, by part; ``rest`` is what lies before its start.

    Programs run in the order in which they are handed over, each when the one before it is done. They are waited for
    once the next ones are on their way, or where the host has to wait anyway: what the host does meanwhile is seen only
    where it takes longer than they do.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._mark = clock, clock()
        self._expected: list[tuple[Spent, str, Any]] = []
        self._spent: Spent = {}

    def begin(self) -> Spent:
        """An iteration begins, whose record this is; what the last one left running is still that one's."""
        self._spent = {"rest": 0.0}
        if not self._expected:
            self._lap(self._spent, "rest")
        return self._spent

    def expect(self, part: str, result: Any) -> None:
        """A part was handed over; ``result`` is an array that it makes, and that is not given up to another program."""
        self._expected.append((self._spent, part, result))
        while self._expected and self._expected[0][2].is_ready():
            self._next()

    def settle(self) -> None:
        """Wait for all that was handed over."""
        while self._expected:
            self._next()

    def metrics(self, spent: Spent) -> dict[str, float]:
        """``time.PART``, a share of the whole, of an iteration that ends with its ``update``."""
        if "update" not in spent:
            self.settle()
        total = max(sum(spent.values()), 1e-9)
        return {f"time.{part}": seconds / total for part, seconds in spent.items()}

    def _next(self) -> None:
        spent, part, result = self._expected.pop(0)
        jax.block_until_ready(result)
        self._lap(spent, part)

    def _lap(self, spent: Spent, part: str) -> None:
        now = self._clock()
        spent[part] = spent.get(part, 0.0) + now - self._mark
        self._mark = now
