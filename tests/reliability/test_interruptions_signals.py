"""SIGTERM and SIGINT at a random step of each stage: 75, a checkpoint at that very step, the same bits in the end."""

import os
import pathlib
import random
import signal
import time
from functools import partial

import pytest

from tests.end_to_end import tiny
from tests.reliability import interrupted
from tests.reliability.conftest import Tally

ORDERS = (signal.SIGTERM, signal.SIGINT)
ENDS_WITHIN = 10.0  # seconds from the signal to the end


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[tuple[str, ...], pathlib.Path]]:
    """Stage -> its command, each going on from the stage before it, and the directory of a run that was left alone.

    No checkpoint falls before the last step, so that the one after a signal is the signal's.
    """
    folder = tmp_path_factory.mktemp("whole")
    found: dict[str, tuple[tuple[str, ...], pathlib.Path]] = {}
    for stage in ("sft", "reward", "ppo"):
        words = (
            f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
            *interrupted.MORE,
            f"--config.stages={stage}",
            "--config.checkpoint.every=100",
            "--config.checkpoint.every_iterations=100",
            *(f"--config.parents.{parent}={folder / parent}" for parent in found),
        )
        child = interrupted.finish(folder / f"{stage}.txt", *words, f"--workdir={folder / stage}")
        assert child.process.exitcode == 0, pathlib.Path(f"{child.output}.err").read_text()
        found[stage] = (words, folder / stage)
    return found


@pytest.mark.reliability("R3", tries=3, torture=21)
def test_a_signal_at_any_step_saves_that_step_and_the_run_goes_on_bit_for_bit(
    commands: dict[str, tuple[tuple[str, ...], pathlib.Path]], tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to a run that was left alone: all of the last checkpoint, and all rows, bit for bit."""
    for number in tally.tries:
        rng, stage = random.Random(number), ("sft", "reward", "ppo")[number % 3]
        words, whole = commands[stage]
        order, at, workdir = rng.choice(ORDERS), rng.randrange(1, interrupted.STEPS - 4), tmp_path / str(number)
        command = (*words, f"--workdir={workdir}")
        child = interrupted.start(tmp_path / "said", *command, hook=partial(interrupted.slowly, 0.1))
        with tally.one(f"{order.name} to {stage} after step {at} (try {number})"), interrupted.ended_with(child):
            interrupted.until(lambda w=workdir, s=stage, a=at: interrupted.steps(w, s) >= a)
            time.sleep(rng.random() * 0.2)
            assert child.process.pid
            os.kill(child.process.pid, order)
            sent = time.monotonic()
            assert child.wait() == 75
            assert time.monotonic() - sent < ENDS_WITHIN
            said = interrupted.status(workdir)
            told = [said[name] for name in ("state", "stage", "reason", "exit_code")]
            assert told == ["interrupted", stage, order.name, 75]
            assert at <= said["step"] < interrupted.STEPS, "it was in flight"
            assert tiny.last_step(workdir, stage) == said["step"]
            again = interrupted.finish(tmp_path / "said", *command)
            assert again.process.exitcode == 0, again.said()
            assert f"{stage}: going on from step {said['step']}\n" in again.said()
            tiny.assert_same_state(workdir, whole, (stage,))
            assert tiny.rows_of(workdir) == tiny.rows_of(whole)


@pytest.mark.reliability("R3", tries=1, torture=4)
def test_a_second_signal_ends_a_step_that_takes_too_long(
    commands: dict[str, tuple[tuple[str, ...], pathlib.Path]], tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to what shells know: 128 and the number of the signal. Signals within half a second count as one."""
    words, _ = commands["sft"]
    for number in tally.tries:
        rng, workdir = random.Random(number), tmp_path / str(number)
        first, second, at = rng.choice(ORDERS), rng.choice(ORDERS), rng.randrange(3, interrupted.STEPS)
        command, marker = (*words, f"--workdir={workdir}"), tmp_path / f"{number}.begun"
        child = interrupted.start(tmp_path / "said", *command, hook=partial(interrupted.long_at, at, str(marker)))
        with tally.one(f"{first.name}, then {second.name} in step {at}"), interrupted.ended_with(child):
            interrupted.until(marker.exists)
            pid = child.process.pid
            assert pid
            os.kill(pid, first)
            os.kill(pid, first)
            time.sleep(0.8)
            assert child.process.is_alive()
            os.kill(pid, second)
            sent = time.monotonic()
            assert child.wait() == 128 + second
            assert time.monotonic() - sent < 2
