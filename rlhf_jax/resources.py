"""What a run uses up, room on the disk and memory, and what its user is told where there is none left."""

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhf_jax.errors import INTERRUPTED, USER_ERROR, DiskError, UserError

# Of mallopt: heaps, how many blocks have pages of their own, how many free bytes at the end are kept (-1: all).
_ARENAS, _MAPPED, _TRIMMED = -8, -4, -1
MARGIN = 8 * 2**20  # bytes beside checkpoints: rows, samples, the report
# Of a disk. With some another start may help: another machine, or a file system that is there again.
_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_PASSING = (errno.EIO, errno.ESTALE)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # which a file that is none of the run's may have met
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = {os.strerror(number): number for number in (*_LASTING, *_PASSING)}
# A library in C++ says it in words, `[OS error 28: ...]` or `[os_error_code='28']`, and the path in quotes.
_NUMBER, _PATH = re.compile(r"OS[ _]error(?:_code)?[ =]'?(\d+)", re.IGNORECASE), re.compile(r"[\"'](/[^\"']+)[\"']")
_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory|bad_alloc", re.IGNORECASE)


# ------------------------------------------------------------------------- room on the disk


def check_room(workdir: Path, saved: Mapping[str, int], keep: int) -> None:
    """See that the checkpoints of a run will find room, before its first step.

    ``saved`` has the bytes of one checkpoint of each stage that is to run; every stage keeps ``keep`` of them, and one
    more while it writes. What lies there of earlier parts of the run counts.

    Raises:
      DiskError: they will not.
    """
    if not saved:
        return
    needed = sum(max(0, keep * size - _kept(workdir / "checkpoints" / stage)) for stage, size in saved.items())
    needed += max(saved.values()) + MARGIN
    free = _free(workdir)
    if free < needed:
        largest = max(saved, key=saved.__getitem__)
        raise DiskError(
            f"--workdir: {workdir}: {needed:,} bytes needed for checkpoints, {free:,} free on its file system; "
            f"make room, name another --workdir, or lower config.checkpoint.keep ({keep}; each takes up to "
            f"{saved[largest]:,} in {largest})",
            USER_ERROR,
        )


def _kept(folder: Path) -> int:
    """Bytes of a stage's steps: what is damaged or half done makes no room for others."""
    return sum(_size(step) for step in folder.glob("*") if step.name.isdigit())


def _size(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size if path.is_file() else 0
        except OSError:  # removed since
            continue
    return found


def _free(workdir: Path) -> int:
    return shutil.disk_usage(workdir).free


# ------------------------------------------------------------------------- memory


def keep_memory() -> None:
    """Have this process keep the memory that it is done with, for what it makes next.

    A step of training takes what it works on and gives all of it back, and the system then has to fill new pages with
    zeros, page by page, at every step: an eighth of its time on a CPU (docs/LOG.md). To be called before JAX
    starts its threads. Only glibc can be told, and is not if its user has told it something. Source: mallopt(3).
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        told = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of another C library
        return
    for name, value in ((_ARENAS, 1), (_MAPPED, 0), (_TRIMMED, -1)):
        told(name, value)


# ------------------------------------------------------------------------- what has ended a run


def refused(error: OSError, text: str) -> UserError:
    """What is raised, with ``text``, where the system refuses something: a DiskError where a disk is at fault."""
    return UserError(text) if (code := _code(error.errno)) is None else DiskError(text, code)


def what_ran_out(error: BaseException, workdir: Path, stage: str) -> UserError | None:
    """One line to the user where it is a disk or the memory that has ended a run; None where it is not."""
    if isinstance(error, UserError):
        return None
    found = []
    for one in _chain(error):
        number, path = _of_disk(one)
        if number in _CLOSED and one not in (error, error.__cause__) and not _is_in(path, workdir):
            continue  # a bug, while such an error was dealt with
        if number:
            found.append((number, path))
    if found:
        number, path = next((one for one in found if one[1]), found[0])
        return _disk_error(number, path or str(workdir), workdir)
    for one in _chain(error):
        if isinstance(one, MemoryError) or _MEMORY.search(str(one)):
            return _memory_error(str(one), stage)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those behind it."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop(0)
        if not any(one is other for other in seen):
            seen.append(one)
            yield one
            behind = (one.__cause__, None if one.__suppress_context__ else one.__context__)
            left += [other for other in behind if other is not None]


def _is_in(path: str, folder: Path) -> bool:
    return bool(path) and Path(path).resolve().is_relative_to(folder.resolve())


def _of_disk(error: BaseException) -> tuple[int, str]:
    """The number of the system's error, 0 where it is none of a disk, and the path if that is known."""
    if isinstance(error, OSError):
        known = error.errno in (*_LASTING, *_PASSING)
        return (error.errno or 0, str(error.filename or "")) if known else (0, "")
    text = str(error)
    told = _NUMBER.search(text)
    number = int(told[1]) if told else next((number for words, number in _WORDS.items() if words in text), 0)
    found = _PATH.search(text)
    return (number if number in (*_LASTING, *_PASSING) else 0), (found[1] if found else "")


def _disk_error(number: int, path: str, workdir: Path) -> DiskError:
    try:
        free = f", {_free(workdir):,} bytes free, {_size(workdir / 'checkpoints'):,} in the run's checkpoints"
    except OSError:
        free = ""
    what = f"{path}: {os.strerror(number)}{free if number in _FULL else ''}"
    goes_on = "the same command goes on from the last checkpoint"
    if number in _PASSING:
        return DiskError(f"{what}; {goes_on}", INTERRUPTED)
    mend = "make room" if number in _FULL else "see that it can be written"
    return DiskError(f"{what}; {mend}, and {goes_on}", USER_ERROR)


def _code(number: int | None) -> int | None:
    """What the program ends with for an error of a disk; None for another."""
    if number in _PASSING:
        return INTERRUPTED
    return USER_ERROR if number in _LASTING else None


def _memory_error(text: str, stage: str) -> UserError:
    words = " ".join(text.split())[:200]
    if not stage:
        return UserError(f"out of memory before the first stage{f' ({words})' if words else ''}; see docs/memory.md")
    section = stage.removesuffix("_common")
    rows = "prompts_per_iteration" if section in ("ppo", "online") else "batch_size"
    parts = [] if section in ("segments", "critique", "online") else [f"a larger config.{section}.accumulate"]
    parts += ["a smaller config.ppo.rollout_rows"] if section in ("sft", "ppo") else []
    told = ", ".join(["config.model.remat=full", *parts, "more devices (config.parallel.fsdp)"])
    return UserError(
        f"out of memory in stage {stage}{f' ({words})' if words else ''}: with {told} the run goes on from its last "
        f"checkpoint; a smaller config.{section}.{rows} is another run; see docs/memory.md"
    )


# ------------------------------------------------------------------------- caches


def cache_folder() -> tuple[Path, str]:
    """Where data and compiled programs are kept between runs, and what the user should know about it, mostly "".

    RLHF_JAX_CACHE names it; else it is rlhf_jax in XDG_CACHE_HOME (~/.cache) or, where there is no such place to write
    to, a folder of the user's own among temporary files. Raises OSError where there is no place for these either.
    """
    named = os.environ.get("RLHF_JAX_CACHE")
    if named:
        return Path(named).expanduser(), ""
    try:
        base = os.environ.get("XDG_CACHE_HOME", "")  # not absolute, it is no place, says its specification
        home = Path(base if os.path.isabs(base) else "~/.cache").expanduser() / "rlhf_jax"
        if can_write(home):
            return home, ""
        why = f"{home} cannot be written"
    except RuntimeError:
        why = "there is no home directory"
    made = Path(tempfile.gettempdir()) / f"rlhf_jax-{os.getuid()}"
    made.mkdir(mode=0o700, exist_ok=True)
    if made.lstat().st_uid != os.getuid() or made.is_symlink():  # somebody else's, who could put programs there
        made = Path(tempfile.mkdtemp(prefix="rlhf_jax-"))
    return made, f"caches are in {made}, for {why}; RLHF_JAX_CACHE names another place"


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
