"""All processes stop at one boundary, which none has passed; a second signal waits for nothing."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

from rlhf_jax.parallel import failures, processes, stopping
from rlhf_jax.parallel.stopping import Stop

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Line:
    """The store and the barrier of a run, between threads that play its processes."""

    def __init__(self, count: int) -> None:
        self.values: dict[str, str] = {}
        self.barrier = threading.Barrier(count)

    def key_value_set(self, key: str, value: str) -> None:
        self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [pair for pair in self.values.items() if pair[0].startswith(key)]

    def wait_at_barrier(self, name: str, timeout: int) -> None:
        self.barrier.wait(10)


@pytest.mark.parametrize("seed", range(4))
def test_processes_stop_at_one_boundary_however_far_apart_they_are(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Each walks at its own pace, and hears of the order at its own time."""
    count, line, me = 4, Line(4), threading.local()
    monkeypatch.setattr(processes, "client", lambda: line)
    monkeypatch.setattr(jax, "process_index", lambda: me.number)
    pace = random.Random(seed)
    stops, at = [Stop() for _ in range(count)], [0] * count

    def walk(number: int, pause: float) -> None:
        while not stops[number]():
            at[number] += 1
            time.sleep(pause)

    def hear(number: int, after: float) -> None:
        me.number = number
        time.sleep(after)
        stops[number].agree("SIGTERM")

    threads = [threading.Thread(target=walk, args=(n, pace.uniform(0.0005, 0.005))) for n in range(count)]
    threads += [threading.Thread(target=hear, args=(n, pace.uniform(0.01, 0.2))) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(set(at)) == 1
    assert at[0] > 1
    assert {stop.reason for stop in stops} == {"SIGTERM"}


class Store(Line):
    """A line that keeps what was said first, as jax's does."""

    def key_value_set(self, key: str, value: str) -> None:
        if key in self.values:
            raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: {key}")
        self.values[key] = value

    def key_value_try_get(self, key: str) -> str:
        if key not in self.values:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: {key}")
        return self.values[key]

    def wait_at_barrier(self, name: str, timeout: int) -> None:
        try:
            super().wait_at_barrier(name, timeout)
        except threading.BrokenBarrierError as error:
            raise jax.errors.JaxRuntimeError(f"INTERNAL: {name}") from error


def test_a_failure_is_heard_after_an_order_to_stop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that fails never comes to where the boundary is settled; the first failure is the one that counts."""
    line, ended = Store(2), threading.Event()
    heard: list[tuple[int, str]] = []
    monkeypatch.setattr(processes, "client", lambda: line)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(stopping, "POLL", 0.01)
    monkeypatch.setattr(stopping, "end_with", lambda code, reason, _: heard.append((code, reason)))
    listener = threading.Thread(target=stopping._listen_to_others, args=(Stop(), ended, print), daemon=True)
    listener.start()
    Stop().ask("SIGTERM")
    while "rlhf_jax/boundary/0" not in line.values:
        time.sleep(0.01)
    listener.join(0.1)
    assert listener.is_alive()
    for code in ("2", "1"):
        failures.say(failures.FAILED, code)
    listener.join(5)
    line.barrier.abort()
    assert not listener.is_alive()
    assert heard == [(2, "another process failed")]


def test_a_process_alone_stops_at_the_next_boundary() -> None:
    stop = Stop()
    assert not stop()
    stop.ask("SIGINT")
    assert stop()
    assert stop(), "and at every later one"
    assert stop.reason == "SIGINT"


@pytest.mark.parametrize("asked", [("SIGTERM", "pruned"), ("pruned", "SIGTERM")])
def test_a_signal_is_the_reason_whatever_else_asked_for_the_stop(asked: tuple[str, str]) -> None:
    stop = Stop()
    for name in asked:
        stop.ask(name)
    assert stop()
    assert stop.reason == "SIGTERM"


SCRIPT = """
import sys, time
from rlhf_jax.parallel.stopping import heeding_others
with heeding_others(print) as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("stopped by", stop.reason, flush=True)
    time.sleep(30)  # the step under way
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_at_once(number: signal.Signals) -> None:
    """But not one that comes on the heels of the first, as from a launcher that signals a process and its group."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"stopped by {number.name}\n"
        process.send_signal(number)
        time.sleep(stopping.ONE_ORDER + 0.3)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
        assert time.monotonic() - began < 2
        assert "a second signal ends this at once" in process.stderr.read()  # type: ignore[union-attr]
