"""Records on disk, read and checked once: a folder with an ArrayRecord file and a fingerprint of what is in it.

``records.array_record`` holds one record of JSON an entry, fields at their defaults left out. ``fingerprint.json`` says
from which file they were read and how, and what the other file must be, so that a cut or changed one is noticed.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from array_record.python import array_record_data_source, array_record_module

from rlhf_jax.data.records import Message, Prompt, Record, Response, Span
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import MOST_JSON, check_file

FORMAT_VERSION = 1
RECORDS, FINGERPRINT, REJECTS = "records.array_record", "fingerprint.json", "rejects.jsonl"


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Where prepared records come from, and what they are.

    ``source`` is the name of what was read, ``source_sha256`` of its bytes (empty where it is no file), then the
    settings it was read with, and what was counted: rows, rows left out, repeated responses, judgements skipped,
    records. ``tokenizer_sha256`` is empty unless a tokenizer was named, ``chat``, the sha256 of a chat template and
    the special tokens it may name, unless
    records are to be rendered by it. ``size`` in bytes and ``sha256`` are of the records file.
    """

    source: str
    source_sha256: str
    format: str
    template: str
    tie_margin: float
    annotators: str
    rows: int
    rejected: int
    duplicates: int
    skipped: int
    records: int
    tokenizer_sha256: str = ""
    chat: str = ""
    size: int = 0
    sha256: str = ""
    format_version: int = FORMAT_VERSION


class PreparedRecords(Sequence[Record]):
    """The records of a prepared folder by random access.

    Raises UserError, with the name of the file, if a file is missing, cut or changed, or of another version.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._folder = pathlib.Path(directory)
        self.fingerprint = read_fingerprint(directory)
        path = self._folder / RECORDS
        if path.exists():
            check_file(path)
        try:
            size = path.stat().st_size
            digest = sha256_of(path) if size == self.fingerprint.size else ""
        except OSError as error:
            raise UserError(f"{path}: file: cannot be read ({error.strerror})") from error
        if size != self.fingerprint.size:
            raise UserError(
                f"{path}: file: {size} bytes, but {FINGERPRINT} says {self.fingerprint.size}: cut or changed"
            )
        if digest != self.fingerprint.sha256:
            raise UserError(f"{path}: file: its sha256 is not that of {FINGERPRINT}: changed or damaged")
        try:
            self._source = array_record_data_source.ArrayRecordDataSource([str(path)])
            found = len(self._source)
        except RuntimeError as error:
            raise UserError(f"{path}: file: no records in it ({error})") from error
        if found != self.fingerprint.records:
            raise UserError(f"{path}: file: {found} records, but {FINGERPRINT} says otherwise")

    def __len__(self) -> int:
        return self.fingerprint.records

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        try:
            return record_from_json(self._source[place])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self._folder / RECORDS}: record {place}: damaged ({error})") from error

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UserError if the records were read with other settings; the format "auto" is any."""
        for key, wanted in settings.items():
            found = getattr(self.fingerprint, key)
            if wanted != found and key == "chat":
                raise UserError(f"data.chat: {self._folder} was prepared {_for_chat(found)}, not {_for_chat(wanted)}")
            if wanted != found and (key, wanted) != ("format", "auto"):
                mend = f"prepare it anew with --{key}={_shell(wanted)} or set config.data.{key}={_shell(found)}"
                if key == "format":
                    mend = "set config.data.format=auto"
                raise UserError(f"data.{key}: {wanted!r}, but {self._folder} was prepared with {found!r}; {mend}")


def _for_chat(sha256: str) -> str:
    return f"for the chat template of sha256 {sha256[:12]}..." if sha256 else "without a chat template"


def _shell(value: object) -> str:
    """As a word of a shell, on one line."""
    text = str(value)
    if "\n" not in text:
        return shlex.quote(text)
    for plain, escaped in (("\\", r"\\"), ("'", r"\'"), ("\n", r"\n")):
        text = text.replace(plain, escaped)
    return f"$'{text}'"


def is_prepared(path: str | os.PathLike[str]) -> bool:
    """Whether the path is a folder with a fingerprint or records in it."""
    return any(os.path.isfile(os.path.join(path, name)) for name in (FINGERPRINT, RECORDS))


def check_tokenizer(path: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
    """Raise UserError if ``path`` is a folder that was prepared for another tokenizer."""
    if not is_prepared(path):
        return
    wanted = read_fingerprint(path).tokenizer_sha256
    if wanted and wanted != tokenizer_sha256(tokenizer):
        raise UserError(f"data.path: {path} was prepared for another tokenizer; prepare it anew or name that one")


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Of what decides which ids a text becomes: rules and vocabulary (of a tokenizer in Python the vocabulary alone),
    and the two special ids."""
    backend = tokenizer.backend
    rules = backend.backend_tokenizer.to_str() if backend.is_fast else json.dumps(sorted(backend.get_vocab().items()))
    return hashlib.sha256(f"{tokenizer.pad_id} {tokenizer.eos_id} {rules}".encode()).hexdigest()


def read_fingerprint(directory: str | os.PathLike[str]) -> Fingerprint:
    """The fingerprint of a prepared folder. Raises UserError if it is missing, damaged or of another version."""
    path = pathlib.Path(directory) / FINGERPRINT
    if path.exists():
        check_file(path, MOST_JSON)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: file: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: file: not JSON ({error})") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version: {version!r}, but this version reads {FORMAT_VERSION}; prepare it anew"
        )
    values.setdefault("chat", "")  # folders from before there was one
    fields = {field.name: field.type for field in dataclasses.fields(Fingerprint)}
    for key, kind in fields.items():
        if type(values.get(key)) is not kind:
            raise UserError(f"{path}: {key}: missing or damaged")
    return Fingerprint(**{key: values[key] for key in fields})


def write_prepared(
    directory: str | os.PathLike[str],
    records: Sequence[Record],
    fingerprint: Fingerprint,
    rejected: Sequence[tuple[int, str]] = (),
    unit: str = "line",
) -> Fingerprint:
    """Write the folder, which must not exist yet, in one step; returns the fingerprint with the size and sha256 it got.

    ``rejected`` are (place, reason) of the rows left out and ``unit`` what a place counts, for ``rejects.jsonl``. The
    files are written beside the folder, which gets its name when they are on the disk. Raises UserError if they cannot
    be written.
    """
    final = pathlib.Path(directory)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{final.name}-preparing-", dir=final.parent))
    except OSError as error:
        raise UserError(f"{final}: cannot be written ({error.strerror})") from error
    try:
        path = scratch / RECORDS
        # One record a chunk: any of them is read without its neighbours.
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record_to_json(record))
        writer.close()
        done = dataclasses.replace(fingerprint, records=len(records), size=path.stat().st_size, sha256=sha256_of(path))
        text = json.dumps(dataclasses.asdict(done), indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / FINGERPRINT).write_text(text + "\n", encoding="utf-8")
        if rejected:
            write_rejects(scratch / REJECTS, rejected, unit)
        for written in scratch.iterdir():
            with open(written, "rb") as file:
                os.fsync(file.fileno())
        scratch.chmod(0o755)  # temporary folders are their owner's alone
        os.rename(scratch, final)
    except OSError as error:
        raise UserError(f"{final}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return done


def write_rejects(path: str | os.PathLike[str], rejected: Sequence[tuple[int, str]], unit: str) -> None:
    """Write (place, reason) of the rows that were left out as JSON lines; ``unit`` is what a place counts."""
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps({unit: place, "reason": reason}) + "\n" for place, reason in rejected)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_to_json(record: Record) -> bytes:
    """The record as UTF-8 JSON, fields at their defaults left out."""
    return json.dumps(_compact(record), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def records_sha256(records: Iterable[Record | tuple[Prompt, str]]) -> str:
    """Of all records, or demonstrations, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(_compact(record)).encode() + b"\n")
    return digest.hexdigest()


def record_from_json(data: bytes) -> Record:
    """The record of ``record_to_json``'s bytes."""
    row = json.loads(data)
    row["responses"] = tuple(
        Response(**{**item, "spans": tuple(Span(**span) for span in item.get("spans", ()))})
        for item in row.get("responses", ())
    )
    row["messages"] = tuple(Message(**item) for item in row.get("messages", ()))
    if row.get("edges") is not None:
        row["edges"] = tuple((better, worse) for better, worse in row["edges"])
    return Record(**row)


def _compact(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_compact(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = ((field.name, getattr(value, field.name), field.default) for field in dataclasses.fields(value))
    return {name: _compact(found) for name, found, default in fields if found != default}
