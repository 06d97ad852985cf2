"""One run directory has one owner: races, dead owners, sleeping owners, and file systems without locks."""

import json
import os
import pathlib
import random
import signal
import socket
import time
from functools import partial

import pytest

from rlhf_jax import owner
from rlhf_jax.metrics import read_jsonl
from tests.end_to_end import tiny
from tests.reliability import interrupted
from tests.reliability.conftest import Tally

REFUSED_WITHIN = 2.0  # seconds from when the directory is asked for
COMMAND = (
    f"--config={tiny.ROOT / 'configs' / 'sft.py'}",
    *interrupted.MORE,
    "--config.checkpoint.every=2",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of a run that had no rival; it leaves all programs compiled."""
    folder = tmp_path_factory.mktemp("whole")
    child = interrupted.finish(folder / "said", *COMMAND, f"--workdir={folder / 'run'}")
    assert child.process.exitcode == 0, pathlib.Path(f"{child.output}.err").read_text()
    return folder / "run"


def assert_as(workdir: pathlib.Path, whole: pathlib.Path) -> None:
    tiny.assert_same_state(workdir, whole, ("sft",))
    assert tiny.rows_of(workdir) == tiny.rows_of(whole)


@pytest.mark.reliability("R18", tries=3, torture=20)
def test_of_two_that_start_at_once_one_runs_and_the_other_is_told(
    whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to the numbers that the system gave the two processes, and to a run without a rival."""
    for number in tally.tries:
        workdir = tmp_path / str(number)
        gate = time.time() + 1.0
        pair = [
            interrupted.start(
                tmp_path / f"said{number}.{one}",
                *COMMAND,
                f"--workdir={workdir}",
                hook=partial(interrupted.at_once, str(tmp_path / f"took{number}.{one}"), gate, slow=0.2),
            )
            for one in range(2)
        ]
        with tally.one(f"race {number}"), interrupted.ended_with(*pair):
            codes = [child.wait() for child in pair]
            assert sorted(codes) == [0, 2]
            winner, loser = (pair[codes.index(code)] for code in (0, 2))
            line = loser.error()
            who = f"process {winner.process.pid} on {socket.gethostname()} trains here since "
            assert line.startswith(f"rlhf-jax: error: --workdir: {workdir}: {who}"), line
            assert float((tmp_path / f"took{number}.{codes.index(2)}").read_text()) < REFUSED_WITHIN
            assert tiny.status_of(workdir)["state"] == "done"
            assert_as(workdir, whole)


@pytest.mark.reliability("R18", tries=1, torture=5)
def test_what_a_killed_owner_left_stops_nobody(whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally) -> None:
    """SIGKILL at a random step; what it wrote in the file still names it, and the next run goes on at once."""
    for number in tally.tries:
        rng, workdir = random.Random(number), tmp_path / str(number)
        command = (*COMMAND, f"--workdir={workdir}")
        killed = interrupted.start(tmp_path / "killed", *command, hook=partial(interrupted.slowly, 0.1))
        at = rng.randrange(1, 7)
        with tally.one(f"killed after step {at}"), interrupted.ended_with(killed):
            interrupted.until(lambda w=workdir, a=at: interrupted.steps(w, "sft") >= a)
            killed.process.kill()
            assert killed.wait() == -signal.SIGKILL
            assert json.loads((workdir / owner.NAME).read_text())["pid"] == killed.process.pid
            again = interrupted.finish(tmp_path / "again", *command)
            assert again.process.exitcode == 0, again.said()
            assert (workdir / owner.NAME).read_text() == ""
            assert_as(workdir, whole)


@pytest.mark.reliability("R18", tries=1, torture=5)
def test_an_owner_that_sleeps_keeps_its_directory(whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally) -> None:
    """SIGSTOP: it lives, and could write as soon as it is woken; so nobody else may."""
    for number in tally.tries:
        rng, workdir = random.Random(number), tmp_path / str(number)
        command = (*COMMAND, f"--workdir={workdir}")
        sleeper = interrupted.start(tmp_path / "sleeper", *command, hook=partial(interrupted.slowly, 0.1))
        pid = sleeper.process.pid
        assert pid
        with tally.one("asleep"), interrupted.ended_with(sleeper):
            at = rng.randrange(1, 7)
            interrupted.until(lambda w=workdir, a=at: interrupted.steps(w, "sft") >= a)
            os.kill(pid, signal.SIGSTOP)
            before = (workdir / "metrics.jsonl").read_bytes()
            other = interrupted.finish(tmp_path / "other", *command)
            assert other.process.exitcode == 2
            assert f"process {pid} on " in other.error()
            assert (workdir / "metrics.jsonl").read_bytes() == before
            os.kill(pid, signal.SIGCONT)
            assert sleeper.wait() == 0
            assert_as(workdir, whole)


@pytest.mark.reliability("R18", tries=1, torture=5)
def test_without_locks_an_owner_that_slept_on_another_machine_ends_without_a_word(
    whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """No locks, a machine that cannot be asked: who comes takes over, and who wakes up writes nothing."""
    for number in tally.tries:
        rng, workdir = random.Random(number), tmp_path / str(number)
        command = (*COMMAND, f"--workdir={workdir}")
        hook = partial(interrupted.without_locks, "a machine far away")
        sleeper = interrupted.start(tmp_path / "sleeper", *command, hook=hook)
        pid = sleeper.process.pid
        assert pid
        with tally.one("taken over"), interrupted.ended_with(sleeper):
            at = rng.randrange(3, 7)
            interrupted.until(lambda w=workdir, a=at: interrupted.steps(w, "sft") >= a)
            os.kill(pid, signal.SIGSTOP)
            hook = partial(interrupted.without_locks, "")
            other = interrupted.start(tmp_path / "other", *command, hook=hook)
            with interrupted.ended_with(other):
                interrupted.until(lambda c=other: "sft: going on from step" in c.said())
                interrupted.until(lambda w=workdir: interrupted.status(w)["state"] == "running")
                os.kill(pid, signal.SIGCONT)
                assert sleeper.wait() == 75
                assert other.wait() == 0
            assert f"process {pid} on {socket.gethostname()} is taken for gone" in other.said()
            assert "another process took" in pathlib.Path(f"{sleeper.output}.err").read_text()
            rows = [(row["stage"], row["step"]) for row in read_jsonl(workdir / "metrics.jsonl")]
            assert len(rows) == len(set(rows)) + 1, "no step twice but the last, which is evaluated"
            assert_as(workdir, whole)
