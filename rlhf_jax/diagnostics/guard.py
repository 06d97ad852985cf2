"""The bookkeeping of steps that were skipped, and of losses that leap.

NumPy-free and deterministic: the state is plain numbers, so that it can be kept in a checkpoint.
"""

import collections
import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

DEVIATION = 1.4826  # median absolute deviations of a normal law in its standard deviation


@dataclasses.dataclass(frozen=True)
class GuardSpec:
    """When a run gives up, and what counts as a spike.

    ``max_skipped`` steps may be skipped on end. A loss is a spike if it lies more than ``spike`` (0: never) robust
    standard deviations above the median of the ``window`` losses before it. ``max_rewinds`` rewinds are made from one
    checkpoint to the next.
    """

    max_skipped: int = 10
    spike: float = 0.0
    window: int = 100
    max_rewinds: int = 10


class Guard:
    """What is counted from step to step.

    ``drawn`` batches were taken from the stream, of which those up to ``kept`` are in the checkpoint that a spike goes
    back to, or were left behind by an earlier one. ``in_a_row`` steps were skipped last, ``rewinds`` made since that
    checkpoint.
    """

    def __init__(self, spec: GuardSpec) -> None:
        self.spec = spec
        self.drawn = self.kept = self.in_a_row = self.rewinds = 0
        self._losses: collections.deque[float] = collections.deque(maxlen=spec.window)

    def bound(self) -> float:
        """The loss above which the next one is a spike; infinity as long as the window is not full."""
        if not self.spec.spike or len(self._losses) < self.spec.window:
            return float("inf")
        middle = statistics.median(self._losses)
        spread = DEVIATION * statistics.median(abs(loss - middle) for loss in self._losses)
        return middle + self.spec.spike * spread

    def skipped(self) -> bool:
        """A step was skipped; whether that is one too many."""
        self.in_a_row += 1
        return self.in_a_row > self.spec.max_skipped

    def made(self, loss: float) -> None:
        """A step was made, at this loss."""
        self.in_a_row = 0
        if self.spec.spike:
            self._losses.append(loss)

    def saved(self) -> None:
        """The step is the one that a spike will go back to."""
        self.kept, self.rewinds = self.drawn, 0

    def rewound(self, state: Mapping[str, Any]) -> None:
        """Losses and skipped steps are those of a checkpoint again; batches are not."""
        drawn, rewinds = self.drawn, self.rewinds
        self.set_state(state)
        self.drawn = self.kept = drawn
        self.rewinds = rewinds + 1

    def get_state(self) -> dict[str, Any]:
        """What a resumed run must know; JSON."""
        counts = {name: getattr(self, name) for name in ("drawn", "kept", "in_a_row", "rewinds")}
        return {**counts, "losses": list(self._losses)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``get_state``."""
        for name in ("drawn", "kept", "in_a_row", "rewinds"):
            setattr(self, name, state[name])
        self._losses.clear()
        self._losses.extend(state["losses"])
