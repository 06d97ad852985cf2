"""Files of the newest step are damaged at random: that is noticed, or what is restored is what was saved."""

import logging
import pathlib
import random
import shutil
from collections.abc import Callable

import jax.numpy as jnp
import pytest

from rlhf_jax.checkpoints import Checkpoints, Damaged
from rlhf_jax.errors import UserError
from tests.reliability import states
from tests.reliability.conftest import Tally

BEFORE, NEWEST = 2, 4
LARGE = 4000  # numbers in one array
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Damage = Callable[[pathlib.Path, random.Random], str]


@pytest.fixture(scope="module", params=DTYPES)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """A folder with two steps, and the type of the parameters."""
    folder = tmp_path_factory.mktemp("sound") / "c"
    with Checkpoints(folder) as checkpoints:
        for step in (BEFORE, NEWEST):
            checkpoints.save(states.large(step, LARGE, DTYPES[request.param]), states.meta(step))
    return folder, request.param


def flip_a_bit(path: pathlib.Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place = chance.randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(bytes(data))
    return f"bit {place}"


def truncate(path: pathlib.Path, chance: random.Random) -> str:
    size = chance.randrange(path.stat().st_size)
    path.write_bytes(path.read_bytes()[:size])
    return f"cut to {size} bytes"


def delete(path: pathlib.Path, chance: random.Random) -> str:
    path.unlink()
    return "deleted"


def zero_a_page(path: pathlib.Path, chance: random.Random) -> str:
    """Of 256 bytes, for the files are small."""
    data = bytearray(path.read_bytes())
    start = chance.randrange(0, len(data), 256)
    data[start : start + 256] = bytes(len(data[start : start + 256]))
    path.write_bytes(bytes(data))
    return f"zeros from {start}"


def append(path: pathlib.Path, chance: random.Random) -> str:
    path.write_bytes(path.read_bytes() + chance.randbytes(64))
    return "64 bytes more"


def survives(folder: pathlib.Path, dtype: str) -> bool:
    """Whether the damage to the newest step was noticed; fails if it was not and should have been."""
    wanted = {step: states.large(step, LARGE, DTYPES[dtype]) for step in (BEFORE, NEWEST)}
    with Checkpoints(folder) as checkpoints:
        said = ""
        try:  # as another run would
            assert states.bits(checkpoints.read_params(NEWEST)) == states.bits(wanted[NEWEST].params)
        except Damaged as error:
            said = str(error)
        assert "\n" not in said
        assert not said or said.startswith(f"{folder / str(NEWEST)}: damaged: ")
        assert (folder / str(NEWEST)).is_dir()
        found = checkpoints.restore_newest(states.blank(wanted[NEWEST]))
    assert found is not None
    assert states.bits(found.state) == states.bits(wanted[found.step]), f"a silent wrong restore of step {found.step}"
    assert found.meta == states.meta(found.step)
    noticed = found.step == BEFORE
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ([str(BEFORE), f"{NEWEST}.corrupt"] if noticed else [str(BEFORE), str(NEWEST)])
    assert len(found.notes) == noticed
    for note in found.notes:
        assert "\n" not in note
        assert note.startswith(f"{folder / str(NEWEST)}: damaged: ")
        assert note.endswith(f"kept as {NEWEST}.corrupt, going on from the step before")
    return noticed


def damage_again_and_again(
    tally: Tally, sound: tuple[pathlib.Path, str], tmp_path: pathlib.Path, kinds: tuple[Damage, ...]
) -> float:
    """Returns the share of tries in which it was noticed."""
    folder, dtype = sound
    noticed = 0
    for number in tally.tries:
        chance = random.Random(f"{dtype} {number}")
        with tally.one(f"{dtype}, try {number}"):
            copy = shutil.copytree(folder, tmp_path / f"{number}")
            files = sorted(path for path in (copy / str(NEWEST)).rglob("*") if path.is_file())
            # Every other try any byte is as likely as another, so that most of it falls on arrays.
            sizes = [path.stat().st_size if number % 2 else 1 for path in files]
            (path,) = chance.choices(files, sizes)
            what = kinds[number % len(kinds)](path, chance)
            try:
                noticed += survives(copy, dtype)
            except (UserError, AssertionError) as error:
                raise AssertionError(f"{path.relative_to(copy)}, {what}: {error}") from error
            shutil.rmtree(copy)
    return noticed / len(tally.tries)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], None]:
    """Checks that nothing but the note has been said: no traceback of a library reaches the user."""

    def check() -> None:
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    return check


@pytest.mark.reliability("R4", tries=25, torture=300)
def test_a_flipped_bit_is_noticed_or_harmless(
    tally: Tally, sound: tuple[pathlib.Path, str], tmp_path: pathlib.Path, quiet: Callable[[], None]
) -> None:
    """Of any file of the newest step. The truth is the rule that the state was made by, not what was read back.

    A file that is not read when a state is restored (Orbax keeps some twice) may have any bit.
    """
    share = damage_again_and_again(tally, sound, tmp_path, (flip_a_bit,))
    assert share > 0.1, "the flips have missed all that is read"
    quiet()


@pytest.mark.reliability("R5", tries=16, torture=300)
def test_other_damage_to_a_file_is_noticed_or_harmless(
    tally: Tally, sound: tuple[pathlib.Path, str], tmp_path: pathlib.Path, quiet: Callable[[], None]
) -> None:
    """Cut short, deleted, a page of zeros, and bytes appended, as disks and interrupted copies leave files."""
    share = damage_again_and_again(tally, sound, tmp_path, (truncate, delete, zero_a_page, append))
    assert share > 0
    quiet()
