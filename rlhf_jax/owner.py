"""Who owns a run directory, and whether an owner lives.

A run that trains holds an exclusive lock (flock) on ``RUN/.owner`` from before its first file until after its last. The
kernel gives the lock back when the process ends, however it ends, so that no lock is ever stale; the file stays, for a
lock on a file that comes and goes would be no lock. What is written in the file says who has it, to whoever is refused,
and to an owner that has lost it.
"""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError

NAME = ".owner"
# Seconds until a lock that is held counts as held: that of a process just killed is given back a moment later, and
# ``is_held`` takes it for an instant.
PATIENCE = 0.5
# What flock says of file systems that have no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class Owned(UserError):
    """Another process trains in the run directory."""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def machine() -> str:
    """What tells this machine, since it was started, from all others; of containers, each from the other."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return " ".join((socket.gethostname(), _read("/proc/sys/kernel/random/boot_id"), namespace))


def born(pid: int) -> str:
    """When the process was started, in the kernel's ticks; "" where it has ended, or the system does not say."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in "ZX" else ""


def me() -> dict[str, Any]:
    """This process, as its claims and locks name it."""
    return {"machine": machine(), "pid": os.getpid(), "born": born(os.getpid())}


def gone(owner: dict[str, Any]) -> bool:
    """Whether the process ran on this machine and has ended; False where that cannot be told from here."""
    if owner.get("machine") != machine():
        return False
    pid = owner["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(owner["born"]) and born(pid) != owner["born"]


def is_held(workdir: Path) -> bool:
    """Whether a run directory has an owner that lives; False where the file system cannot tell."""
    try:
        handle = os.open(workdir / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


class Owner:
    """This process as the owner of a run directory: from ``take`` to the end of the block."""

    def __init__(self, workdir: Path, lost: Callable[[], None]) -> None:
        """``lost`` is called, and must not return, where another process owns the directory now."""
        self._path, self._lost = workdir / NAME, lost
        self._handle: int | None = None
        self._record = b""

    def __enter__(self) -> "Owner":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                if not self._lost_it():
                    os.ftruncate(self._handle, 0)
            os.close(self._handle)  # gives the lock back
            self._handle = None

    @property
    def owns(self) -> bool:
        return self._handle is not None

    def take(self) -> str:
        """Become the owner of the directory, which must be there. Returns what the user should know, mostly "".

        Where the file system has no locks, what is written in the file decides: an owner on this machine is asked for;
        one of another machine cannot be, and is taken for gone, or no run would go on after its machine was taken away.

        Raises:
          Owned: another process is.
          OSError: the file cannot be made.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            note = self._lock(handle)
            self._record = (json.dumps(_about_me()) + "\n").encode()
            os.ftruncate(handle, 0)
            os.pwrite(handle, self._record, 0)
            if note:  # of two that came at once the one that wrote last is the owner
                time.sleep(PATIENCE / 4)
                if self._lost_it():
                    raise self._owned()
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return note

    def check(self) -> None:
        """Call ``lost`` if another process has become the owner: this one slept, and its lock was not kept for it."""
        if self._handle is not None and self._lost_it():
            self._lost()

    def _lost_it(self) -> bool:
        try:
            found = self._path.read_bytes()  # opened anew: a network file system asks its server then
        except OSError:
            return False  # away for a moment, or removed with the directory: what is to be written next tells
        return found != self._record  # empty: the other one has come and gone

    def _lock(self, handle: int) -> str:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return ""
            except BlockingIOError:
                if time.monotonic() > end:
                    raise self._owned() from None
                time.sleep(PATIENCE / 20)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                return self._ask(str(error.strerror))

    def _ask(self, why: str) -> str:
        found = self._content()
        if found and found.get("machine") == machine() and not gone(found):
            raise self._owned()
        left = f"; process {found.get('pid')} on {found.get('host')} is taken for gone" if found else ""
        return f"{self._path}: no locks on this file system ({why}): see that one run alone is started here{left}"

    def _owned(self) -> Owned:
        found = self._content()
        who = f"process {found['pid']} on {found['host']}" if found else "another process"
        since = f" since {found['since']}" if found else ""
        command = f" ({found['command'][:200]})" if found else ""
        return Owned(f"--workdir: {self._path.parent}: {who} trains here{since}{command}; end it, or name another")

    def _content(self) -> dict[str, Any]:
        """Of the owner; {} where nothing can be read, for it has only just come."""
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        whole = isinstance(found, dict) and {"machine", "pid", "born", "host", "since", "command"} <= found.keys()
        return found if whole else {}


def _about_me() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {**me(), "host": socket.gethostname(), "since": since, "command": shlex.join(sys.argv)}
