"""What a version has released, later ones restore."""

import pathlib
import shutil

import jax
import pytest

from rlhf_jax.checkpoints import FORMAT, Checkpoints
from rlhf_jax.parallel import MeshExecutor
from tests.reliability import make_golden, states
from tests.reliability.conftest import Tally

FORMATS = sorted(make_golden.GOLDEN.glob("format_*"))


@pytest.mark.reliability("R29", tries=3)
@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_a_golden_checkpoint_is_restored_bit_for_bit(
    folder: pathlib.Path, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """The truth is the rule of integers that the state was made by (states.py); on one device, on eight, alone."""
    copy = shutil.copytree(folder, tmp_path / "c")
    wanted = states.state(make_golden.STEP, make_golden.DTYPE)
    for number, devices in zip(tally.tries, (jax.devices()[:1], jax.devices(), None), strict=True):
        with (
            tally.one(f"{folder.name}, way {number}"),
            Checkpoints(copy, identity=make_golden.IDENTITY, accept=()) as checkpoints,
        ):
            if devices is None:
                assert states.bits(checkpoints.read_params(make_golden.STEP)) == states.bits(wanted.params)
                continue
            like = MeshExecutor(devices, fsdp=min(len(devices), 2)).place(states.blank(wanted), "state")
            found = checkpoints.restore_newest(like)
            assert found is not None
            assert (found.step, found.notes, found.meta) == (make_golden.STEP, (), states.meta(make_golden.STEP))
            assert states.bits(found.state) == states.bits(wanted)


def test_there_is_a_golden_checkpoint_of_the_format_that_is_written() -> None:
    assert (make_golden.GOLDEN / f"format_{FORMAT}").is_dir()
