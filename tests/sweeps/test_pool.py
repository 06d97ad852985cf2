"""Several workers on one host, by stand-ins: the killed are replaced, an order or an error ends all."""

import pathlib
import signal
import subprocess
import threading
import time

import pytest

from rlhf_jax.sweeps import pool
from rlhf_jax.sweeps.pool import LIVES, run_pool
from tests.sweeps.standin import begin, made

WAIT = "exec sleep 60"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shell lines of the workers, in the order in which they are started; the last one for all that follow."""
    lines: list[str] = []
    started: list[subprocess.Popen[bytes]] = []

    def start(*_: object) -> subprocess.Popen[bytes]:
        line = lines[min(len(started), len(lines) - 1)]
        started.append(subprocess.Popen(["/bin/sh", "-c", line]))
        return started[-1]

    monkeypatch.setattr(pool, "_start", start)
    monkeypatch.setattr(pool, "POLL", 0.02)
    return lines


def test_when_all_come_to_the_end_the_pool_does(tmp_path: pathlib.Path, scripts: list[str]) -> None:
    scripts += ["exit 0"]
    assert run_pool(tmp_path, 3, 60) == 0


def test_a_worker_that_the_system_kills_is_replaced(
    tmp_path: pathlib.Path, scripts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    scripts += ["kill -9 $$", "exit 0"]
    assert run_pool(tmp_path, 2, 60) == 0
    assert capsys.readouterr().out == "a worker was killed by SIGKILL; another takes its place\n"


def test_workers_that_all_are_killed_before_they_do_anything_are_not_replaced_for_ever(
    tmp_path: pathlib.Path, scripts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path)
    scripts += ["kill -9 $$"]
    assert run_pool(tmp_path, 2, 60) == 75
    assert capsys.readouterr().out.count("another takes its place") == LIVES


@pytest.mark.parametrize("code", [2, 1])
def test_an_error_of_one_ends_all_with_its_code(tmp_path: pathlib.Path, scripts: list[str], code: int) -> None:
    scripts += [WAIT, f"exit {code}"]
    assert run_pool(tmp_path, 2, 60) == code


def test_a_worker_that_stalls_leaves_the_rest_to_the_others_and_the_command_to_be_given_again(
    tmp_path: pathlib.Path, scripts: list[str]
) -> None:
    spec = begin(tmp_path)
    for number in range(5):
        made(tmp_path, spec, number, pair_accuracy=0.5)
    scripts += ["exit 75", "sleep 0.2; exit 0"] * 2
    assert run_pool(tmp_path, 2, 60) == 75
    made(tmp_path, spec, 5, state="running")
    assert run_pool(tmp_path, 2, 60) == 75


def test_what_a_stalled_worker_left_the_others_may_have_brought_to_its_end(
    tmp_path: pathlib.Path, scripts: list[str]
) -> None:
    spec = begin(tmp_path)
    for number in range(6):
        made(tmp_path, spec, number, pair_accuracy=0.5)
    scripts += ["exit 75", "sleep 0.2; exit 0"]
    assert run_pool(tmp_path, 2, 60) == 0


def test_a_signal_is_passed_on_and_the_same_command_goes_on(tmp_path: pathlib.Path, scripts: list[str]) -> None:
    scripts += [
        "trap 'exit 75' TERM; touch ready.$$; while :; do sleep 0.02; done".replace("ready", f"{tmp_path}/ready")
    ]
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def order() -> None:
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.02)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=order).start()
    assert run_pool(tmp_path, 2, 60) == 75
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
