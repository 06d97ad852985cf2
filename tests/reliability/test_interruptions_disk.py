"""Disks that fill up, break, or cannot be written from the start; memory that runs out."""

import errno
import os
import pathlib
import random
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from rlhf_jax.resources import MARGIN
from tests.end_to_end import tiny
from tests.reliability import interrupted
from tests.reliability.conftest import Tally

EVERY = 2  # steps between two checkpoints
COMMAND = (
    f"--config={tiny.ROOT / 'configs' / 'sft.py'}",
    *interrupted.MORE,
    f"--config.checkpoint.every={EVERY}",
)
GOES_ON = "and the same command goes on from the last checkpoint"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of a run that nothing befell; it leaves all programs compiled."""
    folder = tmp_path_factory.mktemp("whole")
    child = interrupted.finish(folder / "said", *COMMAND, f"--workdir={folder / 'run'}")
    assert child.process.exitcode == 0, pathlib.Path(f"{child.output}.err").read_text()
    return folder / "run"


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A disk of 24 MB of its own, which takes a superuser who may mount."""
    folder = tmp_path_factory.mktemp("disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("only a superuser who may mount has a disk to fill")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_goes_on(workdir: pathlib.Path, whole: pathlib.Path, said: pathlib.Path) -> None:
    """By the same command, from a checkpoint, to the bits of a run that nothing befell."""
    kept = tiny.last_step(workdir, "sft")
    tiny.state_of(workdir, "sft")  # it can be read
    again = interrupted.finish(said, *COMMAND, f"--workdir={workdir}")
    assert again.process.exitcode == 0, pathlib.Path(f"{said}.err").read_text()
    assert f"sft: going on from step {kept}\n" in again.said()
    tiny.assert_same_state(workdir, whole, ("sft",))
    assert tiny.rows_of(workdir) == tiny.rows_of(whole)
    assert (workdir / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def assert_nothing_half_done(workdir: pathlib.Path) -> None:
    """No temporary file is left, and every file that has its final name is whole: rows but for a torn last line."""
    assert not list(workdir.rglob("*.tmp"))
    for path in workdir.glob("*.json"):
        assert path.read_text().endswith("}\n"), path


@pytest.mark.reliability("R6", tries=1, torture=6)
def test_a_disk_that_another_fills_ends_the_run_within_a_save(
    small_disk: pathlib.Path, whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to the kernel's own full disk. Older checkpoints stay, and with room the run ends as if nothing had been."""
    for number in tally.tries:
        workdir, at = small_disk / str(number), random.Random(number).randrange(EVERY + 2, interrupted.STEPS - 1)
        hook = partial(interrupted.fill, small_disk / "filler", at, workdir)
        child = interrupted.finish(tmp_path / "said", *COMMAND, f"--workdir={workdir}", hook=hook)
        with tally.one(f"full before step {at}"):
            assert child.process.exitcode == 2
            line = child.error()
            assert f"error: {workdir}" in line
            assert "No space left on device" in line
            assert " bytes free, " in line
            assert line.endswith(GOES_ON)
            assert at - 2 <= interrupted.steps(workdir, "sft") <= at + EVERY
            assert EVERY <= tiny.last_step(workdir, "sft") <= at
            assert_nothing_half_done(workdir)
            (small_disk / "filler").unlink()
            assert_goes_on(workdir, whole, tmp_path / "again")
        (small_disk / "filler").unlink(missing_ok=True)


KINDS = [
    ("rows", errno.ENOSPC),
    ("checkpoint", errno.EDQUOT),
    ("files", errno.EIO),
    ("rows", errno.EIO),
    ("rows", errno.EDQUOT),
    ("files", errno.ENOSPC),
    ("files", errno.EDQUOT),
    ("checkpoint", errno.ENOSPC),
    ("checkpoint", errno.EIO),
]


@pytest.mark.reliability("R6", tries=3, torture=9)
def test_an_error_of_any_write_is_one_line_and_the_run_goes_on(
    whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to what the system calls each error. Another start may help against EIO alone, so that it ends with 75."""
    for number in tally.tries:
        what, code = KINDS[number % len(KINDS)]
        workdir, at = tmp_path / str(number), random.Random(number).randrange(EVERY + 2, interrupted.STEPS - 1)
        hook = partial(interrupted.fault, what, code, str(workdir), at)
        child = interrupted.finish(tmp_path / "said", *COMMAND, f"--workdir={workdir}", hook=hook)
        with tally.one(f"{what}: {errno.errorcode[code]} from step {at} on"):
            line, wanted = child.error(), 75 if code == errno.EIO else 2
            assert child.process.exitcode == wanted, line
            assert f"error: {workdir}/" in line
            assert os.strerror(code) in line
            assert line.endswith(GOES_ON.removeprefix("and "))
            told = interrupted.status(workdir)
            assert (told["state"], told["exit_code"]) == ("interrupted", wanted)
            assert os.strerror(code) in told["reason"]
            assert_nothing_half_done(workdir)
            torn = not (workdir / "metrics.jsonl").read_bytes().endswith(b"\n")
            assert torn == (what == "rows")
            assert_goes_on(workdir, whole, tmp_path / "again")


@pytest.mark.reliability("R6", tries=1)
def test_checkpoints_that_will_find_no_room_are_told_of_before_the_first_step(
    whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to what a checkpoint of the same run takes on the disk."""
    for _ in tally.tries:
        hook = partial(interrupted.no_room, 12345)
        child = interrupted.finish(tmp_path / "said", *COMMAND, f"--workdir={tmp_path / 'run'}", hook=hook)
        with tally.one("no room"):
            assert child.process.exitcode == 2
            line = child.error()
            assert f"--workdir: {tmp_path / 'run'}: " in line
            assert "bytes needed for checkpoints, 12,345 free on its file system" in line
            assert "config.checkpoint.keep (2; each takes up to" in line
            each = int(line.rpartition("up to ")[2].split(" ")[0].replace(",", ""))
            arrays = sum(leaf.nbytes for leaf in tiny.state_of(whole, "sft").values())
            files = (whole / "checkpoints" / "sft" / str(interrupted.STEPS)).rglob("*")
            taken = sum(path.stat().st_size for path in files if path.is_file())
            assert abs(each - arrays) < 64  # of scalars
            assert taken < each + MARGIN
            assert not (tmp_path / "run" / "metrics.jsonl").exists()
            assert not list((tmp_path / "run").glob("checkpoints/*/*"))


def _places(folder: pathlib.Path) -> list[tuple[str, pathlib.Path, interrupted.Hook | None]]:
    """What is wrong, the run directory, and a hook if it takes one: a superuser may write almost everywhere."""
    (folder / "file").write_text("mine")
    (folder / "taken" / ".owner").mkdir(parents=True)
    closed = folder / "closed"
    closed.mkdir()
    return [
        ("Not a directory", folder / "file" / "run", None),
        ("File exists", folder / "file", None),
        ("Read-only file system", closed / "run", partial(interrupted.unwritable, errno.EROFS, str(closed))),
        ("Permission denied", closed, partial(interrupted.unwritable, errno.EACCES, str(closed))),
        ("Is a directory", folder / "taken", None),
        ("No such file or directory", pathlib.Path("/proc/nothing/run"), None),
    ]


@pytest.mark.reliability("R7", tries=6)
def test_a_run_directory_that_cannot_be_written_is_one_line_within_five_seconds(
    tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to what the system calls each error."""
    for number, (words, workdir, hook) in zip(tally.tries, _places(tmp_path), strict=True):
        with tally.one(words, within=5):
            child = interrupted.finish(tmp_path / f"said{number}", *COMMAND, f"--workdir={workdir}", hook=hook)
            assert child.process.exitcode == 2
            assert child.error() == f"rlhf-jax: error: --workdir: {workdir}: {words}"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.reliability("R7", tries=1, torture=3)
def test_a_user_without_a_home_or_temporary_files_can_run(
    whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally
) -> None:
    """Held to a run that has both: the same bits, and a note where the caches are."""
    kinds = [{"HOME": "/proc/nothing"}, {"TMPDIR": "/proc/nothing"}, {"HOME": "", "TMPDIR": "/proc/nothing"}]
    for number in tally.tries:
        values = {
            "TMPDIR": str(tmp_path),
            "HOME": str(tmp_path),
            **kinds[number],
            "RLHF_JAX_CACHE": "",
            "XDG_CACHE_HOME": "",
        }
        workdir = tmp_path / str(number)
        hook = partial(interrupted.environment, **values)
        child = interrupted.finish(tmp_path / f"said{number}", *COMMAND, f"--workdir={workdir}", hook=hook)
        with tally.one(str(kinds[number])):
            assert child.process.exitcode == 0, pathlib.Path(f"{child.output}.err").read_text()
            if number == 0:
                assert f"caches are in {tmp_path}/rlhf_jax-{os.getuid()}, for /proc/nothing/.cache" in child.said()
                assert list((tmp_path / f"rlhf_jax-{os.getuid()}" / "xla").iterdir())
            tiny.assert_same_state(workdir, whole, ("sft",))


@pytest.mark.reliability("R31", tries=3, torture=9)
def test_out_of_memory_is_told_with_what_would_help(whole: pathlib.Path, tmp_path: pathlib.Path, tally: Tally) -> None:
    """Real allocations that fail: of XLA's, without a limit and under RLIMIT_AS, and of Python's."""
    for number in tally.tries:
        workdir, at = tmp_path / str(number), random.Random(number).randrange(EVERY + 2, interrupted.STEPS)
        kind = (
            partial(interrupted.no_memory, at),
            partial(interrupted.no_memory, at, 2**28),
            partial(interrupted.no_python_memory, at),
        )[number % 3]
        child = interrupted.finish(tmp_path / "said", *COMMAND, f"--workdir={workdir}", hook=kind)
        with tally.one(f"{kind} before step {at}"):
            line = child.error()
            assert child.process.exitcode == 2, line
            assert "error: out of memory in stage sft" in line
            for key in ("model.remat=full", "sft.accumulate", "ppo.rollout_rows", "sft.batch_size", "parallel.fsdp"):
                assert f"config.{key}" in line
            told = interrupted.status(workdir)
            assert (told["state"], told["exit_code"]) == ("failed", 2)
            assert_goes_on(workdir, whole, tmp_path / "again")
