"""Who works on a trial: claims that are made exclusively, kept alive by a heartbeat, and taken over from the dead.

A trial has one claim file an attempt, ``claims/1.json``, ``claims/2.json``, ..., of which the newest counts. Making
one is exclusive in every file system that hosts share, and no file of the past is ever moved or removed: of two workers
that find an owner dead, one makes the next number. An owner that was only asleep sees it and ends at once.

An owner is dead when it ran on this machine and its process is gone, or when its file has not been touched for so long
as the lease says, by the clock of the one who waits: clocks of hosts need not agree.
"""

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_jax.errors import INTERRUPTED
from rlhf_jax.metrics import write_text_atomically
from rlhf_jax.owner import gone, me

BEATS = 4  # signs of life in the time of a lease


@dataclasses.dataclass(frozen=True)
class Claim:
    """One attempt at a trial. ``content`` is its owner, ``at`` (where the run stood) and, once given up, ``ended``."""

    path: Path
    content: dict[str, Any]

    @property
    def number(self) -> int:
        return int(self.path.stem)


def claims(trial: Path) -> list[Claim]:
    """All attempts at a trial, first to last. Of one whose writing was cut off, nothing is known but that it is."""
    found = []
    for path in (trial / "claims").glob("[0-9]*.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # with its trial, removed since
            continue
        except ValueError:
            content = {}
        found.append(Claim(path, content if isinstance(content, dict) else {}))
    return sorted(found, key=lambda claim: claim.number)


def text_of(at: dict[str, Any]) -> str:
    """What a claim of this process says, for a trial that stands ``at`` a stage and step."""
    return json.dumps({**me(), "at": at, "time": time.time()}) + "\n"


def take(trial: Path, number: int, at: dict[str, Any]) -> Path | None:
    """Make attempt ``number``; None where another was faster."""
    path = trial / "claims" / f"{number}.json"
    path.parent.mkdir(exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text_of(at))
    except FileExistsError:
        return None
    return path


class Watcher:
    """Tells the claims of the dead, from what it has seen of their signs of life."""

    def __init__(self, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease, self._clock = lease, clock
        self._seen: dict[Path, tuple[float, float]] = {}  # last sign of life, and when it was first seen

    def free(self, claim: Claim) -> bool:
        """Whether nobody works on the trial under this claim, which must be its newest."""
        if claim.content.get("ended") or (claim.content and gone(claim.content)):
            return True
        try:
            # NFS may answer from memory, but asks the server when a file is opened.
            with open(claim.path, "rb") as file:
                sign = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return False  # the trial was removed meanwhile
        seen, since = self._seen.get(claim.path, (None, 0.0))
        if seen != sign:
            self._seen[claim.path] = (sign, self._clock())
            return False
        return self._clock() - since > self._lease


class Lease:
    """Keeps a claim of this process alive until the end of the block, then gives it up.

    A process that has lost its claim to another (it slept for longer than the lease) ends at once: two must not write
    into one run.
    """

    def __init__(self, path: Path, seconds: float, lost: Callable[[], None] = lambda: os._exit(INTERRUPTED)) -> None:
        self._path, self._seconds, self._lost = path, seconds, lost
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        # The trial was removed, or the disk is full: whoever comes next asks whether this process lives.
        with contextlib.suppress(OSError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            write_text_atomically(self._path, json.dumps({**content, "ended": time.time()}) + "\n")

    def _beat(self) -> None:
        following = self._path.with_name(f"{int(self._path.stem) + 1}.json")
        while not self._ended.wait(self._seconds / BEATS):
            try:
                if following.exists():
                    self._lost()
                    return
                os.utime(self._path)
            except OSError:
                continue  # a file system that is away for a moment; the next beat tells
