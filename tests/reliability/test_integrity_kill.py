"""A process is killed while it saves: what was committed before can be restored."""

import multiprocessing
import pathlib
import random
import time

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.checkpoints import Checkpoints
from tests.reliability import saver, states
from tests.reliability.conftest import Tally

TMP = "orbax-checkpoint-tmp"
PATIENCE = 60  # seconds


def steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def half_done(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.glob(f"*{TMP}*"))


def wait_for(condition: object, process: multiprocessing.process.BaseProcess) -> None:
    assert callable(condition)
    begun = time.monotonic()
    while not condition():
        assert process.is_alive(), f"it ended by itself with {process.exitcode}"
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.0005)


@pytest.mark.reliability("R2", tries=2, torture=20)
@pytest.mark.parametrize("waits", [True, False], ids=["sync", "async"])
def test_killed_inside_a_save_the_newest_committed_step_is_restored(
    waits: bool, tally: Tally, tmp_path: pathlib.Path
) -> None:
    """By SIGKILL, while a temporary folder shows that a save is under way; each child goes on where the last one ended.

    The truth is the rule of integers that every step's state follows from. What was committed before the kill was seen
    by its folder's name, so that a step back would be noticed; a child checks what it restores, too. When the folder is
    opened again nothing half done is left.
    """
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(["tests.reliability.saver"])  # imports JAX once; no backend is started there
    folder, chance, in_flight = tmp_path / "c", random.Random(waits), 0
    like = jax.tree.map(jnp.zeros_like, saver.state(0))
    for number in tally.tries:
        with tally.one(f"kill {number}"):
            begun_at = max(steps(folder), default=0)
            child = fork.Process(target=saver.save_on_and_on, args=(str(folder),), kwargs={"waits": waits})
            child.start()
            try:
                more = chance.randrange(1, 4)
                wait_for(lambda least=begun_at + more: max(steps(folder), default=0) >= least, child)
                wait_for(lambda: bool(half_done(folder)), child)
                time.sleep(chance.random() * 0.02)
                committed = max(steps(folder))
            finally:
                child.kill()
                child.join()
            in_flight += bool(half_done(folder))
            with Checkpoints(folder, keep=2) as checkpoints:
                found = checkpoints.restore_newest(like)
            assert half_done(folder) == []
            assert found is not None
            assert found.notes == ()
            assert found.step >= committed > begun_at
            assert found.step == max(steps(folder))
            assert states.bits(found.state) == states.bits(saver.state(found.step))
            assert found.meta == states.meta(found.step)
    assert in_flight >= 0.8 * len(tally.tries), "too few kills have hit a save"
