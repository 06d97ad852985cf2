"""Early warnings: alarms on the figures of a run, read one row after the other.

NumPy-free and deterministic: the state is plain numbers, so that it can be kept in a checkpoint.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

SIDES = ("above", "below")


@dataclasses.dataclass(frozen=True)
class Alarm:
    """``signal`` lies ``above`` or ``below`` a ``bound`` for ``patience`` rows on end.

    The bound is on the figure itself, or with ``relative`` on its ratio to that of the first row that has it.
    """

    signal: str
    side: str
    bound: float
    relative: bool = False
    patience: int = 1

    def __str__(self) -> str:
        sign, unit = (">" if self.side == "above" else "<"), (" x start" if self.relative else "")
        return f"{self.signal} {sign} {self.bound:g}{unit}" + (f" for {self.patience}" if self.patience > 1 else "")


@dataclasses.dataclass
class Monitor:
    """Several alarms; ``observe`` says which of them a row sets off, each once."""

    alarms: Sequence[Alarm]

    def __post_init__(self) -> None:
        self._first: dict[str, float] = {}
        self._runs = [0] * len(self.alarms)
        self.fired: dict[int, int] = {}  # alarm -> the step that set it off

    def observe(self, step: int, row: Mapping[str, float]) -> list[Alarm]:
        """The alarms that the row of a step sets off. A figure that is missing or NaN breaks no run and begins none."""
        found = []
        for place, alarm in enumerate(self.alarms):
            value = row.get(alarm.signal, math.nan)
            if math.isnan(value):
                continue
            start = self._first.setdefault(alarm.signal, value)
            bound = alarm.bound * start if alarm.relative else alarm.bound
            beyond = value > bound if alarm.side == "above" else value < bound
            self._runs[place] = self._runs[place] + 1 if beyond else 0
            if self._runs[place] >= alarm.patience and place not in self.fired:
                self.fired[place] = step
                found.append(alarm)
        return found

    def get_state(self) -> dict[str, Any]:
        """What a resumed run must know; JSON."""
        return {
            "first": dict(self._first),
            "runs": list(self._runs),
            "fired": [[place, step] for place, step in self.fired.items()],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``get_state`` of a monitor of the same alarms."""
        self._first, self._runs = dict(state["first"]), list(state["runs"])
        self.fired = dict(state["fired"])
