"""A process that goes on from the newest step and saves one after the other until it is killed."""

import pathlib

import jax
import jax.numpy as jnp

from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.types import TrainState
from tests.reliability import states

LARGE = 40_000  # numbers, for a save to take a while


def state(step: int) -> TrainState:
    return states.large(step, LARGE)


def save_on_and_on(folder: str, *, waits: bool) -> None:
    """``waits``: for each save to be on disk before the next is begun."""
    with Checkpoints(pathlib.Path(folder), keep=2) as checkpoints:
        found = checkpoints.restore_newest(jax.tree.map(jnp.zeros_like, state(0)))
        step = 0 if found is None else found.step
        if found is not None:
            assert states.bits(found.state) == states.bits(state(step))
        while True:
            step += 1
            checkpoints.save(state(step), states.meta(step))
            if waits:
                checkpoints.wait()
