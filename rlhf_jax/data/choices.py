"""What a person said of two answers, a line of a file at a time; the file is one of ranked lists (``lists``).

A line is written whole and is on the disk before the next question is asked, or it is not there.
"""

import dataclasses
import fcntl
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rlhf_jax.data.readers.checks import BadRow
from rlhf_jax.data.readers.formats import READERS, Settings
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import read_jsonl

Choice = Literal["A", "B", "tie"]
RANKS: dict[str, tuple[int, int]] = {"A": (0, 1), "B": (1, 0), "tie": (0, 0)}
_BEGINNING = b'{"prompt": '  # of every line


def prompt_field(turns: Sequence[Message]) -> str | list[dict[str, str]]:
    """A dialogue to be answered as the field ``prompt``: a single question as its text."""
    if len(turns) == 1 and turns[0].role == "user":
        return turns[0].content
    return [dataclasses.asdict(turn) for turn in turns]


def choice_row(
    turns: Sequence[Message],
    texts: Sequence[str],
    choice: Choice,
    rewards: Sequence[Sequence[float]],
    *,
    annotator: str,
    model: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """A judgement as a row that the readers take: A and B in the order shown, ranks of ``choice``.

    ``rewards``, of each answer by every member of the reward model, and ``about`` are for people: the readers leave
    them alone. A reward must not be called a score, which would be feedback.

    Raises:
      UserError: the readers would refuse it.
    """
    responses = [
        {
            "text": text,
            "rank": rank,
            "model": model,
            "reward": [value if math.isfinite(value) else None for value in own],
        }
        for text, rank, own in zip(texts, RANKS[choice], rewards, strict=True)
    ]
    row = {"prompt": prompt_field(turns), "annotator": annotator, "responses": responses, "choice": choice, **about}
    try:
        READERS["lists"](row, Settings())
    except BadRow as error:
        raise UserError(f"chat: this could not be read back: {error}") from None
    return row


class ChoiceFile:
    """A file that one session adds judgements to. ``rows`` are those it had before, ``note`` what was mended in it."""

    def __init__(self, path: Path) -> None:
        """Open or make it.

        Raises:
          UserError: it cannot be written, another session writes it, or it holds something else (``file:line``).
        """
        self.path, self.note = path, ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"chat: --out: {path}: {error.strerror}") from error
        try:
            self._lock()
            self.rows = read_jsonl(path)
            for number, row in enumerate(self.rows, start=1):
                if "responses" not in row:
                    raise UserError(f"{path}:{number}: not a judgement of answers; name another file by --out")
            self._mend()
        except BaseException:
            os.close(self._file)
            raise

    def add(self, row: dict[str, Any]) -> None:
        """Append one line, and see it on the disk.

        Raises:
          UserError: it could not be written; then nothing of it is left in the file.
        """
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            rest = line
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise UserError(f"chat: --out: {self.path}: {error.strerror}; the judgement was not kept") from error

    def close(self) -> None:
        """Let another session write."""
        os.close(self._file)

    def __enter__(self) -> "ChoiceFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"chat: --out: {self.path}: another session is writing to it") from None

    def _mend(self) -> None:
        """Cut off a last line without its end, which a killed session left; anything else is not ours to cut."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        torn = data[whole:]
        if not torn:
            return
        if not (torn.startswith(_BEGINNING) or _BEGINNING.startswith(torn)):
            raise UserError(f"{self.path}:{len(self.rows) + 1}: not a judgement of answers; name another file by --out")
        os.ftruncate(self._file, whole)
        os.fsync(self._file)
        self.note = f"{self.path}:{len(self.rows) + 1}: a line cut short, which a killed session left, was taken out"
