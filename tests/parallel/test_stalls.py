"""A run that gets nowhere ends itself: how long it waits, and what it leaves."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.parallel import stalls
from rlhf_jax.parallel.failures import POLL
from rlhf_jax.parallel.stalls import COMPILING, PATIENCE, Watch

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 100.0


class Clock:
    """Time that passes when it is told to, and whoever watches looks at every POLL of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watch = Watch(LIMIT, lambda: self.now)

    def waits(self, seconds: float) -> bool:
        """Whether the run is found to stall while so much passes."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + POLL, end)
            if self.watch.overdue():
                return True
        return False


def settled() -> Clock:
    clock = Clock()
    clock.watch.begin()
    for _ in range(COMPILING + 1):
        clock.watch.step()
    return clock


def test_a_step_may_take_as_long_as_it_is_given() -> None:
    clock = settled()
    for _ in range(5):
        assert not clock.waits(LIMIT)
        clock.watch.step()
    assert clock.waits(LIMIT + 1)


def test_what_compiles_may_take_longer() -> None:
    """The preparation of a stage, and the steps up to the boundary from which on everything is compiled."""
    clock = settled()
    clock.watch.begin()
    for _ in range(COMPILING + 1):
        assert not clock.waits(PATIENCE * LIMIT)
        clock.watch.step()
    assert not clock.waits(LIMIT)
    assert clock.waits(1)
    clock = Clock()
    assert not clock.waits(PATIENCE * LIMIT)
    assert clock.waits(1)


def test_an_evaluation_may_take_longer_and_what_follows_may_not() -> None:
    clock = settled()
    evaluate = clock.watch.patiently(lambda seconds: clock.waits(seconds))
    assert not evaluate(PATIENCE * LIMIT)
    assert not clock.waits(LIMIT)
    assert clock.waits(1)
    assert settled().watch.patiently(clock.waits)(0) is False
    assert clock.watch.patiently(clock.waits)(PATIENCE * LIMIT + 1)


def test_an_evaluation_between_steps_that_compile_leaves_them_their_time() -> None:
    clock = Clock()
    clock.watch.begin()
    clock.watch.step()
    clock.watch.patiently(clock.waits)(LIMIT)
    assert not clock.waits(PATIENCE * LIMIT)


def test_time_in_which_the_process_was_suspended_does_not_count() -> None:
    clock = settled()
    assert not clock.waits(LIMIT / 2)
    clock.now += 10 * LIMIT  # and nobody looked
    assert not clock.watch.overdue()
    assert not clock.waits(LIMIT / 2)
    assert clock.waits(1)


def test_the_limit_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(stalls.STALL, raising=False)
    assert stalls.limit() == 3600
    monkeypatch.setenv(stalls.STALL, "0")
    assert stalls.limit() == 0
    monkeypatch.setenv(stalls.STALL, "1h")
    with pytest.raises(UserError, match=r"^RLHF_JAX_STALL: '1h' is not a number of seconds; 0 waits for ever$"):
        stalls.limit()


SCRIPT = """
import pathlib, sys, time
from rlhf_jax.parallel.stalls import watching

def read_that_hangs():
    time.sleep(600)

def last_words(code, reason):
    pathlib.Path(sys.argv[1]).write_text(f"{code} {reason}")

with watching(last_words) as watch:
    for _ in range(4):
        watch.step()
    read_that_hangs()
"""


def test_a_process_alone_ends_with_75_and_the_stacks_of_its_threads(tmp_path: pathlib.Path) -> None:
    told = {**os.environ, "PYTHONPATH": str(ROOT), stalls.STALL: "1"}
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "words")]
    found = subprocess.run(words, capture_output=True, text=True, env=told, timeout=60, check=False)
    assert found.returncode == 75, found.stderr
    assert "in read_that_hangs" in found.stderr
    code, _, reason = (tmp_path / "words").read_text().partition(" ")
    assert code == "75"
    assert re.fullmatch(r"no step for \d+ s \(RLHF_JAX_STALL=1\)", reason)
    assert f"rlhf-jax: process 0 ends: {reason}" in found.stderr
