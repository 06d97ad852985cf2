"""What a stranger may have made. Files are seen to be files, and of a size that can be read, before they are opened;
texts lose what a terminal would obey."""

import json
import re
import stat
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError

# Bytes. What is published takes less by half: an index of 91,000 tensors 9 MB, the largest tokenizers 34 MB.
MOST_JSON, MOST_TOKENIZER = 2**24, 2**26


_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]?")
# C0 and C1 controls, and the marks that reorder text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_HALVES = re.compile("[\ud800-\udfff]")


def check_file(path: Path, most: int | None = None) -> None:
    """See that a path is that of a file, or leads to one, of at most ``most`` bytes; a pipe would never end.

    Raises:
      UserError: it is not.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # of a name with a null in it, too
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}".replace("\0", "?")) from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: not a file")
    if most is not None and found.st_size > most:
        raise UserError(f"{path}: {found.st_size:,} bytes; of such a file no more than {most:,} are read")


def check_folder(folder: Path, most: int) -> None:
    """``check_file`` of everything that lies in a folder but folders, and weights of any size.

    Raises:
      UserError: for the first that is not.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            check_file(path, None if path.suffix in (".safetensors", ".bin", ".gguf", ".h5") else most)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object out of a file. Raises UserError for anything else."""
    check_file(path, MOST_JSON)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return json_object(data, str(path))


def json_object(data: bytes, place: str) -> dict[str, Any]:
    """A JSON object out of the bytes that are at ``place``. Raises UserError for anything else."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(f"{place}: not JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{place}: not JSON that can be read: nested too deeply") from None
    if not isinstance(value, dict):
        raise UserError(f"{place}: expected a JSON object, got {type(value).__name__}")
    return value


def check_run(run: Path) -> None:
    """See that a folder may be a run directory: it has a configuration, and not that of a Hugging Face model.

    Raises:
      UserError: it has none, or is such a folder.
    """
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{run}: not a run directory (no config.json)")
    try:
        values = read_json_object(path)
    except UserError:
        return  # whoever reads it will say what is wrong
    if "architectures" in values:
        raise UserError(f"{run}: a Hugging Face model folder, not a run directory")


def clean_text(text: str) -> str:
    """Text without terminal escapes, bidirectional marks and controls (but line ends and tabs).

    Half of a surrogate pair, which JSON can spell and no output can take, becomes the replacement character.
    """
    return _HALVES.sub("\ufffd", _CONTROLS.sub("", _ESCAPES.sub("", text)))


def one_line(text: str, limit: int = 1000) -> str:
    """Clean text on one line, as it stands but for line ends; its middle left out where it is longer than ``limit``."""
    line = " ".join(clean_text(text).splitlines())
    return line if len(line) <= limit else f"{line[: limit // 2]} … {line[-limit // 2 :]}"


def said(error: BaseException, *, typed: bool = False) -> str:
    """The first line of what an error says, after its type if ``typed``; its type alone where it says nothing."""
    name, text = type(error).__name__, one_line((str(error).strip().splitlines() or [""])[0], 300)
    return f"{name}: {text}" if typed and text else text or name
