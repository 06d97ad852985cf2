"""Room on the disk, and what is told where a disk or the memory has ended a run."""

import errno
import os
import pathlib
import platform
import subprocess
import sys

import pytest

from rlhf_jax import resources
from rlhf_jax.errors import DiskError, UserError, exit_code
from rlhf_jax.resources import MARGIN, cache_folder, can_write, check_room, what_ran_out

ROOT = pathlib.Path(__file__).parents[2]


def of_disk(code: int, path: str = "") -> OSError:
    return OSError(code, os.strerror(code), path or None)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(resources, "_free", lambda _: count)


def test_room_is_asked_for_all_that_is_kept_and_one_more(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stages of 1,000 and 3,000 bytes keep two each, 8,000, and the larger one writes a third."""
    saved, needed = {"sft": 1000, "ppo": 3000}, 11_000 + MARGIN
    free(monkeypatch, needed)
    check_room(tmp_path, saved, 2)
    free(monkeypatch, needed - 1)
    with pytest.raises(DiskError) as told:
        check_room(tmp_path, saved, 2)
    assert exit_code(told.value) == 2
    assert f"{tmp_path}: {needed:,} bytes needed for checkpoints, {needed - 1:,} free" in str(told.value)
    assert "config.checkpoint.keep (2; each takes up to 3,000 in ppo)" in str(told.value)
    # What the run has written needs no room again, but no more than that.
    (tmp_path / "checkpoints" / "sft" / "4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "sft" / "4" / "params").write_bytes(bytes(1500))
    free(monkeypatch, needed - 1500)
    check_room(tmp_path, saved, 2)
    free(monkeypatch, needed - 1501)
    with pytest.raises(UserError):
        check_room(tmp_path, saved, 2)
    (tmp_path / "checkpoints" / "sft" / "4" / "params").write_bytes(bytes(9000))
    free(monkeypatch, 9000 + MARGIN - 1)
    with pytest.raises(UserError):
        check_room(tmp_path, saved, 2)
    free(monkeypatch, 0)
    check_room(tmp_path, {}, 2)  # of a run that is done


def test_what_is_damaged_or_half_done_gives_no_room(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("4", "6.corrupt", "8.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / "sft" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / "sft" / name / "params").write_bytes(bytes(1000))
    free(monkeypatch, 2000 + MARGIN)  # of two that are kept one is there, and another is written
    check_room(tmp_path, {"sft": 1000}, 2)
    free(monkeypatch, 2000 + MARGIN - 1)
    with pytest.raises(DiskError):
        check_room(tmp_path, {"sft": 1000}, 2)


@pytest.mark.parametrize(
    ("code", "ends_with", "words"),
    [
        (errno.ENOSPC, 2, "7 bytes free, 0 in the run's checkpoints; make room, and the same command goes on"),
        (errno.EDQUOT, 2, "make room, and the same command goes on"),
        (errno.EROFS, 2, "Read-only file system; see that it can be written, and the same command goes on"),
        (errno.EIO, 75, "Input/output error; the same command goes on"),
        (errno.ESTALE, 75, "the same command goes on"),
    ],
)
def test_an_error_of_a_disk_is_told_with_its_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, code: int, ends_with: int, words: str
) -> None:
    free(monkeypatch, 7)
    told = what_ran_out(of_disk(code, "/far/metrics.jsonl"), tmp_path, "sft")
    assert isinstance(told, DiskError)
    assert exit_code(told) == ends_with
    assert str(told).startswith(f"/far/metrics.jsonl: {os.strerror(code)}")
    assert words in str(told)


def test_an_error_is_found_behind_others_and_in_the_words_of_libraries(tmp_path: pathlib.Path) -> None:
    behind = ValueError("the manager is closed")
    behind.__context__ = RuntimeError("a step could not be saved")
    behind.__context__.__cause__ = of_disk(errno.ENOSPC)
    told = what_ran_out(behind, tmp_path, "sft")
    assert told is not None
    assert str(told).startswith(f"{tmp_path}: No space left on device")  # which file it was, nobody said
    # As TensorStore had it on a full disk; to it, too, that is RESOURCE_EXHAUSTED.
    text = (
        'RESOURCE_EXHAUSTED: Error writing local file "/runs/a/4/_sharding": Failed writing: "/runs/a/4/_sharding.x": '
        "Failed to write 9007 bytes to file 20: No space left on device [os_error_code='28']"
    )
    behind.__context__.__cause__.__context__ = ValueError(text)
    told = what_ran_out(behind, tmp_path, "sft")
    assert told is not None
    assert str(told).startswith("/runs/a/4/_sharding: No space left on device, ")
    quota = what_ran_out(ValueError(f"[OS error 122: {os.strerror(errno.EDQUOT)}]"), tmp_path, "sft")
    assert quota is not None
    assert os.strerror(errno.EDQUOT) in str(quota)


@pytest.mark.parametrize(
    ("stage", "has", "has_not"),
    [
        ("sft", ("config.sft.accumulate", "config.ppo.rollout_rows", "config.sft.batch_size"), ()),
        ("reward_common", ("config.reward.accumulate", "config.reward.batch_size"), ("rollout",)),
        ("ppo", ("config.ppo.accumulate", "config.ppo.rollout_rows", "config.ppo.prompts_per_iteration"), ("batch",)),
        ("online", ("config.online.prompts_per_iteration",), ("accumulate",)),
        ("segments", ("config.segments.batch_size",), ("accumulate",)),
        ("", ("before the first stage",), ("config.",)),
    ],
)
def test_out_of_memory_names_settings_that_there_are(
    tmp_path: pathlib.Path, stage: str, has: tuple[str, ...], has_not: tuple[str, ...]
) -> None:
    from rlhf_jax.config import default_config, leaves

    told = what_ran_out(RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 12 bytes."), tmp_path, stage)
    assert told is not None
    assert exit_code(told) == 2
    assert "Out of memory allocating 12 bytes." in str(told)
    assert all(words in str(told) for words in has)
    assert not any(words in str(told) for words in has_not)
    known = {f"config.{key}" for key, _ in leaves(default_config())}
    named = {word.strip("(),;=") for word in str(told).replace("=full", "").split() if "config." in word}
    assert named <= known
    assert what_ran_out(MemoryError(), tmp_path, stage) is not None


def test_what_is_no_fault_of_a_disk_is_left_alone(tmp_path: pathlib.Path) -> None:
    for error in (
        UserError("No space left on device"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        ValueError("a bug"),
        ValueError("[OS error 2: No such file or directory]"),
    ):
        assert what_ran_out(error, tmp_path, "sft") is None


def test_a_bug_is_no_error_of_the_disk_that_was_dealt_with_before(tmp_path: pathlib.Path) -> None:
    """What Python's own traceback would not show, or what a file that is none of the run's has met."""
    bug = ValueError("a bug")
    bug.__context__ = of_disk(errno.ENOSPC)
    bug.__suppress_context__ = True  # raise ... from None
    assert what_ran_out(bug, tmp_path, "sft") is None
    for code in (errno.EPERM, errno.EACCES, errno.EROFS):
        bug = ValueError("a bug")
        bug.__context__ = of_disk(code, "/proc/1/environ")
        assert what_ran_out(bug, tmp_path, "sft") is None
        bug.__context__ = of_disk(code, str(tmp_path / "metrics.jsonl"))
        assert isinstance(what_ran_out(bug, tmp_path, "sft"), DiskError)
        bug.__cause__ = of_disk(code)
        assert isinstance(what_ran_out(bug, tmp_path, "sft"), DiskError)


def test_where_caches_are(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_JAX_CACHE", str(tmp_path / "named"))
    assert cache_folder() == (tmp_path / "named", "")
    monkeypatch.delenv("RLHF_JAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == (tmp_path / "xdg" / "rlhf_jax", "")
    for nothing in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert cache_folder() == (tmp_path / "home" / ".cache" / "rlhf_jax", "")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = tmp_path / f"rlhf_jax-{os.getuid()}"
    folder, note = cache_folder()
    assert folder == own
    assert f"for {tmp_path}/file/.cache/rlhf_jax cannot be written; RLHF_JAX_CACHE names another place" in note
    # What somebody else has put there is not trusted.
    own.rmdir()
    own.symlink_to(tmp_path / "home")
    assert cache_folder()[0] != own
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(OSError, match="Not a directory"):
        cache_folder()
    assert not can_write(tmp_path / "file")


FAULTS = """
import resource
from rlhf_jax.resources import keep_memory
keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"1" * 2**27
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("told", "kept"), [({}, True), ({"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}, False)])
def test_memory_is_kept_for_what_comes_next(told: dict[str, str], kept: bool) -> None:
    """Of 128 MiB no page is new the second time, unless the user has told the allocator something."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_", "MALLOC_"))}
    out = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment | told, capture_output=True, text=True, check=True, cwd=ROOT
    )
    first, second = map(int, out.stdout.split())
    assert first > 0
    assert (second < first / 10) == kept
