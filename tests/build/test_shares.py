"""Shares of an iteration, by a clock that stands still but while something is waited for."""

import dataclasses
from typing import Any

import pytest

from rlhf_jax.build import shares
from rlhf_jax.build.shares import Shares


@dataclasses.dataclass
class Result:
    """What a device makes in so many seconds, once it has done what came before."""

    seconds: float

    def is_ready(self) -> bool:
        return not self.seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(shares, a function that lets so many seconds pass)."""
    now = [100.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(shares.jax, "block_until_ready", lambda result: passes(result.seconds))
    return Shares(lambda: now[0]), passes


def hand_over(own: Shares, **seconds: float) -> None:
    for part, needed in seconds.items():
        own.expect(part, Result(needed))


def test_an_iteration_is_divided_as_its_parts_are_waited_for(watch: Any) -> None:
    own, passes = watch
    passes(2.0)  # before the first one begins
    first = own.begin()
    hand_over(own, sampling=3.0, scoring=1.0)
    hand_over(own, scoring=1.0)
    own.settle()
    hand_over(own, update=2.0)

    passes(1.0)  # a part of the update, which nobody has waited for yet
    second = own.begin()  # while the first one's update runs
    hand_over(own, sampling=6.0, scoring=1.0)
    own.settle()
    hand_over(own, update=1.0)
    passes(0.5)  # the host reads texts, which holds nobody up
    assert own.metrics(first) == pytest.approx(
        {"time.rest": 0.2, "time.sampling": 0.3, "time.scoring": 0.2, "time.update": 0.3}
    )
    assert own.metrics(second) == pytest.approx(
        {"time.rest": 0.0, "time.sampling": 6 / 8.5, "time.scoring": 1 / 8.5, "time.update": 1.5 / 8.5}
    )

    passes(4.0)  # an evaluation
    third = own.begin()
    hand_over(own, sampling=2.0, scoring=1.0)
    own.settle()
    hand_over(own, update=1.0)
    assert own.metrics(third)["time.rest"] == pytest.approx(0.5)
    assert sum(own.metrics(third).values()) == pytest.approx(1.0)


def test_what_is_done_at_once_is_seen_at_once(watch: Any) -> None:
    """Where handing over is waiting, as on several devices of a CPU."""
    own, passes = watch
    spent = own.begin()
    for part, seconds in (("sampling", 3.0), ("scoring", 1.0), ("update", 4.0)):
        passes(seconds)
        own.expect(part, Result(0.0))
    assert own.metrics(spent) == {"time.rest": 0, "time.sampling": 3 / 8, "time.scoring": 1 / 8, "time.update": 1 / 2}


def test_reading_an_iteration_does_not_wait_for_the_next_one(watch: Any) -> None:
    own, _ = watch
    first = own.begin()
    hand_over(own, update=1.0)
    own.begin()
    own.settle()
    hand_over(own, update=1.0)
    assert own.metrics(first) == {"time.rest": 0.0, "time.update": 1.0}
    assert len(own._expected) == 1
