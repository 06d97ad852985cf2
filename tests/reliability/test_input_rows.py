"""Malformed rows, class by class and format by format: what is refused, what is taken, and how it is said."""

import collections
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pyarrow
import pyarrow.parquet
import pytest

from rlhf_jax.data.readers import FORMATS, ReadResult, read_file
from rlhf_jax.errors import UserError
from tests.reliability.rows import FORMS, SILENT, Cell, cells

ROOT = pathlib.Path(__file__).parents[2]
CELLS = list(cells())
DATA = [cell for cell in CELLS if not isinstance(cell.row, bytes)]
OTHERS = 100  # good rows around a bad one: it is less than 1 % of them


def line(row: Any) -> bytes:
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def good(cell: Cell, count: int) -> list[bytes]:
    """Rows of the cell's form, with ids of their own."""
    form = cell.form
    ids = ["again", *(f"row {place}" for place in range(1, count))]
    return [line({**form.row, form.id: one} if form.id else form.row) for one in ids]


def told(read: Callable[[], ReadResult]) -> tuple[ReadResult | None, str]:
    """(what was read, ""), or (None, the one line that said why it was not)."""
    try:
        return read(), ""
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    return None, said


def judge(cell: Cell, place: str, read: Callable[[], ReadResult]) -> None:
    """See that the row at ``place`` (its message begins with it) is refused or taken as the cell declares."""
    found, said = told(read)
    if found is None:
        assert cell.says is not None, f"refused: {said}"
        assert re.match(rf"{re.escape(place)}: [^:]+: .|.*: file: ", said), said
        assert re.search(cell.says, said), said
        return
    silent = cell.says == SILENT
    assert cell.says is None or silent, f"taken: {found.records[-1:]}"
    assert (len(found.records), found.skipped, found.rejected) == (found.rows - silent, int(silent), [])


@pytest.mark.reliability("R10", tries=len(CELLS))
def test_json_lines(tally, tmp_path) -> None:
    """Every class in every format, by JSON's own rules (RFC 8259) and what docs/data.md says that a field may hold:
    refused with line, field and reason; under ``skip`` it is in rejects.jsonl with the same words, and all other rows
    are read.
    """
    path, rejects = tmp_path / "f.jsonl", tmp_path / "rejects.jsonl"
    for cell in CELLS:
        with tally.one(cell.name, within=5):
            rows = good(cell, OTHERS)
            path.write_bytes(b"\n".join([*rows, line(cell.row)]) + b"\n")
            judge(cell, f"{path}:{OTHERS + 1}", lambda: read_file(path))
            if cell.says in (None, SILENT):
                continue
            found = read_file(path, on_bad_row="skip", rejects_path=rejects)
            assert (found.rows, len(found.records)) == (OTHERS + 1, OTHERS)
            (reject,) = [json.loads(one) for one in rejects.read_text().splitlines()]
            assert reject == {"line": OTHERS + 1, "reason": found.rejected[0][1]}
            assert re.search(cell.says, reject["reason"])


def containers(folder: pathlib.Path, rows: list[Any]) -> dict[str, pathlib.Path]:
    """The same rows in files of every other kind that can hold them."""
    lines = b"\n".join(map(line, rows))
    (folder / "f.jsonl.gz").write_bytes(gzip.compress(lines, 1))
    (folder / "f.json").write_bytes(b"[\n" + b",\n".join(map(line, rows)) + b"]")
    found = {"gzip": folder / "f.jsonl.gz", "array": folder / "f.json"}
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "f.parquet")
        found["parquet"] = folder / "f.parquet"
    except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError):  # columns of one type cannot hold it
        pass
    return found


@pytest.mark.reliability("R10", tries=3 * len(DATA))
def test_other_containers(tally, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused as JSON lines is refused in gzip, an array, Parquet and a data set of the Hub, with the same
    words: held against what ``test_json_lines`` holds JSON lines to.
    """
    parquets = 0
    for cell in DATA:
        rows = [dict(json.loads(good(cell, 1)[0])), cell.row]
        paths = containers(tmp_path, rows)
        if "a truth value as a number" in cell.name:
            paths.pop("parquet", None)  # written into a column of numbers it is one
        parquets += "parquet" in paths
        for kind, path in paths.items():
            with tally.one(f"{cell.name}, {kind}"):
                judge(cell, f"{path}:{'' if kind == 'gzip' else 'row '}2", lambda path=path: read_file(path))
        hub = types.SimpleNamespace(load_dataset=lambda *_, rows=rows, **__: iter(rows))
        monkeypatch.setitem(sys.modules, "datasets", hub)
        with tally.one(f"{cell.name}, hub"):
            judge(cell, "hub:a/b:row 2", lambda: read_file("hub:a/b"))
    assert parquets > len(DATA) / 3


FILES: dict[str, tuple[Any, str | None]] = {
    # What a file is made of, from the lines of good rows; what is said, None: it is taken.
    "empty": (lambda data: b"", "1: file: empty"),
    "white space": (lambda data: b" \n\n\t\n", "1: file: empty"),
    "a byte order mark alone": (lambda data: b"\xef\xbb\xbf", "1: file: empty"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "1: row: "),
    "UTF-32": (lambda data: data.decode().encode("utf-32"), "1: row: "),
    "a zip": (lambda data: b"PK\x03\x04" + bytes(30), "1: row: "),
    "lines ended by CR alone": (lambda data: data.replace(b"\n", b"\r"), "1: row: not JSON"),
    "cut in its last line": (lambda data: data[:-9], "3: row: not JSON"),
    "a gzip of nothing": (lambda data: gzip.compress(b""), "1: file: empty"),
    "a gzip of a gzip": (lambda data: gzip.compress(gzip.compress(data)), "1: row: "),
    "a gzip with a tail": (lambda data: gzip.compress(data) + b"tail", "file: truncated or damaged gzip"),
    "an open array": (lambda data: b"[" + data.replace(b"\n", b",\n"), "1: row: "),
    "a byte order mark in front": (lambda data: b"\xef\xbb\xbf" + data, None),
    "lines ended by CRLF": (lambda data: data.replace(b"\n", b"\r\n"), None),
    "no end of the last line": (lambda data: data[:-1], None),
    "blank lines between": (lambda data: data.replace(b"\n", b"\n\n \n"), None),
    "two gzips in one": (lambda data: gzip.compress(data) + gzip.compress(b"\n"), None),
    "an array on one line": (lambda data: b"[" + b",".join(data.splitlines()) + b"]", None),
}


@pytest.mark.reliability("R10", tries=len(FILES) * len(FORMS))
def test_whole_files(tally, tmp_path) -> None:
    """Files that are none, and those that only look so, in every format and under both rules for bad rows."""
    path = tmp_path / "f.jsonl"
    for name, form in FORMS.items():
        rows = [{**form.row, form.id: place} if form.id else form.row for place in range(3)]
        data = b"".join(line(row) + b"\n" for row in rows)
        for kind, (make, says) in FILES.items():
            with tally.one(f"{name}, {kind}"):
                path.write_bytes(make(data))
                for rule in ("error", "skip"):
                    found, said = told(lambda rule=rule: read_file(path, on_bad_row=rule))
                    assert (found is not None) == (says is None), said
                    assert len(found.records) == 3 if found else re.search(f"^{re.escape(str(path))}:.*{says}", said), (
                        said
                    )


def damaged(data: bytes, tries: int) -> list[tuple[str, bytes]]:
    """The file cut, with zeros in it, and with one bit turned, at ``tries`` places each."""
    step = len(data) / tries
    places = [int(step * (place + 0.5)) for place in range(tries)]
    flipped = []
    for place in places:
        turned = bytearray(data)
        turned[place] ^= 1 << place % 8
        flipped.append((f"bit {place % 8} of byte {place}", bytes(turned)))
    cut = [(f"cut at {place}", data[:place]) for place in places]
    return (
        cut + [(f"zeros from {p}", data[:p] + bytes(min(50, len(data) - p)) + data[p + 50 :]) for p in places] + flipped
    )


@pytest.mark.reliability("R10", tries=3 * 20 * 2, torture=3 * 400 * 2)
def test_damaged_files(tally, tmp_path) -> None:
    """gzip has a CRC-32 (RFC 1952) and so have the pages of Parquet files that were written with checksums: whatever is
    cut, blanked or turned round is told, or the records are what they were.
    """
    rows = [
        {"prompt": f"What floats, {place}?", "chosen": "Cork." * 9, "rejected": "Lead." * 9} for place in range(300)
    ]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet", write_page_checksum=True, compression="none"
    )
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(b"".join(line(row) + b"\n" for row in rows)))
    for path in (tmp_path / "p.parquet", tmp_path / "g.jsonl.gz"):
        whole, data = read_file(path).records, path.read_bytes()
        for kind, torn in damaged(data, len(tally.tries) // 6):
            path.write_bytes(torn)
            with tally.one(f"{path.name}, {kind}", within=5):
                found, said = told(lambda path=path: read_file(path))
                assert found is None or found.records == whole
                assert found or re.match(rf"{re.escape(str(path))}:[^ ]*( \d+:)? \S+: .", said), said


WORKER = """
import json, sys
from rlhf_jax.data.readers import read_file
found = read_file(sys.argv[1], on_bad_row="skip")
print(hash(found.records[0].prompt), json.dumps([found.rows, found.rejected, found.duplicates, found.skipped,
                                                 [one.id for one in found.records]]))
"""


@pytest.mark.reliability("R10", tries=2)
def test_every_process_counts_alike(tally, tmp_path) -> None:
    """Processes of one run read the file each for itself: other seeds of Python's hashes, the same rows left out."""
    path = tmp_path / "f.jsonl"
    rows = [line({"prompt": f"p{place}", "chosen": "a", "rejected": "b"}) for place in range(300)]
    rows[7] = rows[205] = b"{"
    path.write_bytes(b"\n".join(rows))
    said = []
    for seed in ("1", "2"):
        with tally.one(f"PYTHONHASHSEED={seed}"):
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            command = [sys.executable, "-c", WORKER, str(path)]
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
            said.append(done.stdout.split(" ", 1))
            assert json.loads(said[-1][1])[1] == [[8, ANY], [206, ANY]]
    assert said[0][0] != said[1][0]
    assert said[0][1] == said[1][1]


MEMORY = """
import json, pathlib, re, sys
import pyarrow.parquet, rlhf_jax.data.chat
from rlhf_jax.data.readers import read_file
def peak():  # not getrusage's, which begins at what the parent had
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
before = peak()
found = read_file(sys.argv[1])
print(len(found.records), peak() - before)
"""


@pytest.mark.reliability("R10", tries=3)
def test_memory(tally, tmp_path, request) -> None:
    """Records in memory and what reading takes: at most twice the file, whatever it is, and 128 MiB. The file is of
    24 MB, at full size of 96 MB, of answers of 600 characters.
    """
    megabytes = 96 if request.config.getoption("--torture") else 24
    row = {"prompt": "What floats?" * 10, "chosen": "Cork. " * 100, "rejected": "Lead. " * 100}
    count = megabytes * 10**6 // len(line(row))
    rows = (line({**row, "prompt": f"{place} {row['prompt']}"}) for place in range(count))
    (tmp_path / "f.jsonl").write_bytes(b"\n".join(rows))
    lines = (tmp_path / "f.jsonl").read_bytes().splitlines()
    (tmp_path / "f.json").write_bytes(b"[" + b",\n".join(lines) + b"]")
    table = pyarrow.Table.from_pylist([json.loads(one) for one in lines])
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet", compression="none", use_dictionary=False)
    for name in ("f.jsonl", "f.json", "f.parquet"):
        with tally.one(name):
            path = tmp_path / name
            command = [sys.executable, "-c", MEMORY, str(path)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            found, grown = map(int, done.stdout.split())
            print(f"{name}: {path.stat().st_size / 2**20:.0f} MiB, {grown / 2**20:.0f} MiB of memory")
            assert found == count
            assert grown <= 2 * path.stat().st_size + 2**27


def test_there_is_a_form_of_every_format() -> None:
    assert {form.format for form in FORMS.values()} == set(FORMATS) - {"auto"}
    classes = collections.Counter(re.sub(r".*?: | at .*", "", cell.name) for cell in CELLS)
    assert len(classes) >= 25
