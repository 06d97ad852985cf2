"""What rows come in: JSON lines, a JSON array, Parquet; a TFDS data set; a data set of the Hugging Face Hub."""

import dataclasses
import gzip
import io
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf_jax.data.readers.checks import BadRow, type_of
from rlhf_jax.data.readers.remote import HUB, TFDS, hub_rows, tfds_rows
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import check_file, said

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WORD = re.compile(r"\S")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


@dataclasses.dataclass(frozen=True)
class Container:
    """Rows with their places, counted from 1. ``unit`` goes before a place: empty where places are lines."""

    unit: str
    rows: Iterable[tuple[int, Any]]


def open_container(path: str | os.PathLike[str]) -> Container:
    """The rows of a file, ``tfds:NAME:SPLIT`` or ``hub:OWNER/NAME:SPLIT``; to be parsed by ``parse``.

    Raises (also while it is read) UserError if it cannot be read, or ends too early.
    """
    name = str(path)
    if name.startswith(TFDS):
        return Container("row ", enumerate(tfds_rows(name), start=1))
    if name.startswith(HUB):
        return Container("row ", enumerate(hub_rows(name), start=1))
    if os.path.exists(path) and not os.path.isdir(path):
        check_file(pathlib.Path(path))  # it is opened more than once, which a pipe cannot be
    try:
        with open(path, "rb") as probe:
            start = probe.read(4)
        if start == _PARQUET:
            return Container("row ", enumerate(_parquet(path), start=1))
        with _open(path) as file:
            first = file.read(64).removeprefix(_BYTE_ORDER_MARK).lstrip()[:1]
        if first == b"[":
            array = _array(path)
            if array is not None:
                return Container("row ", enumerate(array, start=1))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}:1: file: truncated or damaged gzip ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: file: cannot be read ({error.strerror})") from error
    return Container("", _lines(path))


def parse(row: Any) -> Mapping[str, Any]:
    """The object that a row is. Raises BadRow for anything else, and for a field that is given twice."""
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8"), object_pairs_hook=_object)
        except UnicodeDecodeError as error:
            raise BadRow(f"row: invalid UTF-8 at byte {error.start}") from None
        except (ValueError, RecursionError) as error:
            raise BadRow(f"row: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise BadRow(f"row: expected an object, found {type_of(row)}")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadRow(f"{next(key for key in keys if keys.count(key) > 1)}: given twice in one object")
    return found


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of the lines that are not blank."""
    line = 0
    try:
        with _open(path) as file:
            for line, data in enumerate(file, start=1):
                if line == 1:
                    data = data.removeprefix(_BYTE_ORDER_MARK)
                if data.strip():
                    yield line, data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}:{line + 1}: file: truncated or damaged gzip ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: file: cannot be read ({error.strerror})") from error


def _open(path: str | os.PathLike[str]) -> io.BufferedIOBase:
    with open(path, "rb") as probe:
        zipped = probe.read(2) == _GZIP
    return gzip.open(path, "rb") if zipped else open(path, "rb")


def _array(path: str | os.PathLike[str]) -> Iterator[bytes] | None:
    """The elements of a file that is one JSON array, each as its own text; None for lines that begin with an array."""
    places: list[tuple[int, int]] = []  # not the elements: beside the text they would be the file once more
    try:
        with _open(path) as file:
            text = file.read().removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
        decoder, at, separator = json.JSONDecoder(), text.index("["), ","
        while separator == ",":
            at = _blank(text, at + 1)
            if not places and text[at : at + 1] == "]":
                break
            _, end = decoder.raw_decode(text, at)
            places.append((at, end))
            at = _blank(text, end)
            separator = text[at : at + 1]
        if text[at : at + 1] != "]" or text[at + 1 :].strip():
            raise ValueError(f"no end of the array at character {at}")
    except (ValueError, RecursionError) as error:
        if str(path).removesuffix(".gz").endswith(".json"):
            raise UserError(f"{path}:row {len(places) + 1}: file: not a JSON array ({error})") from None
        return None
    return (text[start:end].encode() for start, end in places)


def _blank(text: str, at: int) -> int:
    """The place of the first character from ``at`` on that is no white space."""
    found = _WORD.search(text, at)
    return found.start() if found else len(text)


def _parquet(path: str | os.PathLike[str]) -> Iterator[dict[str, Any] | BadRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Checked are the checksums of those files that have some.
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"{path}: file: two columns are called {twice!r:.60}")
            for batch in file.iter_batches(batch_size=256):
                try:
                    rows = batch.to_pylist()
                except (ValueError, OverflowError):  # of some row of these
                    rows = [_row(batch.slice(place, 1)) for place in range(batch.num_rows)]
                yield from rows
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: file: truncated or damaged Parquet ({said(error)})") from error


def _row(batch: Any) -> dict[str, Any] | BadRow:
    """The row of a batch of one, or what of it Python cannot hold: text that is not UTF-8, a date beyond its own."""
    found = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            (found[name],) = column.to_pylist()
        except UnicodeDecodeError as error:
            return BadRow(f"{name}: invalid UTF-8 at byte {error.start}")
        except (ValueError, OverflowError) as error:
            return BadRow(f"{name}: cannot be read ({' '.join(str(error).split())})")
    return found
