"""Shares of an iteration, by a clock that stands still but when a result is waited for."""

from typing import Any

import pytest

from rlhf_jax.build import shares
from rlhf_jax.build.shares import Shares


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(shares, a function that lets so many seconds pass); waiting for a result takes as long as its number says."""
    now = [100.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(shares.jax, "block_until_ready", passes)
    return Shares(lambda: now[0]), passes


def test_an_iteration_is_divided_as_its_parts_are_waited_for(watch: Any) -> None:
    own, passes = watch
    passes(2.0)  # before the first one begins
    first = own.begin()
    own.expect("sampling", 3.0)
    own.expect("scoring", 1.0)
    own.expect("scoring", 1.0)
    own.settle()
    own.expect("update", 3.0)

    second = own.begin()  # while the first one's update runs
    own.expect("sampling", 6.0)
    own.expect("scoring", 1.0)
    own.settle()
    own.expect("update", 1.0)
    passes(0.5)  # the host reads texts, which holds nobody up
    parts = {"rest": 0.2, "sampling": 0.3, "scoring": 0.2, "update": 0.3}
    assert own.metrics(first) == pytest.approx({f"time.{part}": share for part, share in parts.items()})
    assert own.metrics(second) == pytest.approx(
        {"time.sampling": 6 / 8.5, "time.scoring": 1 / 8.5, "time.update": 1.5 / 8.5}
    )

    passes(4.0)  # an evaluation
    third = own.begin()
    for part, seconds in (("sampling", 2.0), ("scoring", 1.0)):
        own.expect(part, seconds)
    own.settle()
    own.expect("update", 1.0)
    assert own.metrics(third)["time.rest"] == pytest.approx(0.5)
    assert sum(own.metrics(third).values()) == pytest.approx(1.0)


def test_reading_an_iteration_does_not_wait_for_the_next_one(watch: Any) -> None:
    own, _ = watch
    first = own.begin()
    own.expect("update", 1.0)
    own.begin()
    own.settle()
    own.expect("update", 1.0)
    assert own.metrics(first) == {"time.rest": 0.0, "time.update": 1.0}
    assert len(own._expected) == 1
