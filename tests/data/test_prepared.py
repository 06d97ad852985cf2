"""Prepared records: what goes in comes out, and a folder that is not what its fingerprint says is refused."""

import dataclasses
import hashlib
import json
import pathlib

import pytest

from rlhf_jax.data.prepared import (
    FINGERPRINT,
    RECORDS,
    Fingerprint,
    PreparedRecords,
    check_tokenizer,
    is_prepared,
    tokenizer_sha256,
    write_prepared,
)
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.errors import UserError
from tests.data.published import FIXTURES

ABOUT = Fingerprint("f.jsonl", "00", "hh", "{prompt}", 0.0, "overall", 3, 0, 0, 0, 3)
THREE = [Record(f"f.jsonl:{i}", f"prompt {i}", (Response("a", 0), Response("é\n\u2028", 1))) for i in (1, 2, 3)]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    write_prepared(tmp_path / "made" / "here", THREE, ABOUT)
    return tmp_path / "made" / "here"


@pytest.mark.parametrize("name", FIXTURES)
def test_round_trip_of_every_format(tmp_path, name: str) -> None:
    fixture = FIXTURES[name]
    about = dataclasses.replace(ABOUT, format=fixture.format, **fixture.settings)
    write_prepared(tmp_path / "p", fixture.records, about)
    found = read_file(tmp_path / "p", **fixture.settings)
    assert list(found.records) == list(fixture.records)
    assert found.format == fixture.format


def test_random_access(folder) -> None:
    records = PreparedRecords(folder)
    assert [records[2], records[-3], records[1]] == [THREE[2], THREE[0], THREE[1]]
    assert records[1:] == THREE[1:]
    assert len(records) == 3
    for outside in (3, -4):
        with pytest.raises(IndexError):
            records[outside]
    assert list(read_file(folder, limit=2).records) == THREE[:2]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["here"]  # nothing is left beside it


def test_the_fingerprint_says_what_is_there(folder) -> None:
    about = json.loads((folder / FINGERPRINT).read_text())
    data = (folder / RECORDS).read_bytes()
    assert about["sha256"] == hashlib.sha256(data).hexdigest()
    assert (about["size"], about["records"], about["format_version"]) == (len(data), 3, 1)


def test_a_changed_file_is_refused_by_name(folder) -> None:
    path = folder / RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"{RECORDS}: file: {len(whole) - 1} bytes, but fingerprint.json says"):
        read_file(folder)
    for place in (10, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=rf"{RECORDS}: file: its sha256 is not that of fingerprint.json"):
            read_file(folder)
    path.unlink()
    with pytest.raises(UserError, match=rf"{RECORDS}: file: cannot be read"):
        read_file(folder)


def test_a_fingerprint_that_does_not_fit_is_refused_by_name(folder) -> None:
    path = folder / FINGERPRINT
    about = json.loads(path.read_text())
    for change, message in (
        ({"format_version": 2}, "fingerprint.json: format_version: 2, but this version reads 1"),
        ({"records": 2}, f"{RECORDS}: file: 3 records, but"),
        ({"records": True}, "fingerprint.json: records: missing or damaged"),
        ({"template": None}, "fingerprint.json: template: missing or damaged"),
    ):
        path.write_text(json.dumps({**about, **change}))
        with pytest.raises(UserError, match=message):
            read_file(folder)
    for text, message in (("[]", "format_version: None"), ("{", "file: not JSON")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_file(folder)
    path.unlink()
    assert is_prepared(folder)
    with pytest.raises(UserError, match=r"fingerprint\.json: file: cannot be read"):
        read_file(folder)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"data_format": "lists"}, "data.format: 'lists', but .* was prepared with 'hh'; set config.data.format=auto"),
        ({"template": "Q: {prompt}"}, "data.template: 'Q: {prompt}', but .* was prepared with '{prompt}'"),
        (
            {"template": "\n\nIt's {prompt}"},
            r"prepare it anew with --template=\$'\\n\\nIt\\'s {prompt}' or set config.data.template='{prompt}'$",
        ),
        ({"tie_margin": 0.5}, "data.tie_margin: 0.5, but .* was prepared with 0.0"),
        ({"annotators": "apart"}, "data.annotators: 'apart', but .* was prepared with 'overall'"),
    ],
)
def test_other_settings_are_refused(folder, setting: dict[str, str], message: str) -> None:
    assert read_file(folder, "hh").rows == 3
    with pytest.raises(UserError, match=message):
        read_file(folder, **setting)


def test_another_tokenizer_is_refused(tmp_path) -> None:
    byte, word = build_tokenizer("byte"), build_tokenizer("word")
    write_prepared(tmp_path / "p", THREE, dataclasses.replace(ABOUT, tokenizer_sha256=tokenizer_sha256(byte)))
    check_tokenizer(tmp_path / "p", build_tokenizer("byte"))
    with pytest.raises(UserError, match="was prepared for another tokenizer"):
        check_tokenizer(tmp_path / "p", word)
    write_prepared(tmp_path / "any", THREE, ABOUT)
    check_tokenizer(tmp_path / "any", word)
    check_tokenizer("", word)


def test_a_failure_leaves_nothing(tmp_path) -> None:
    class Half(list[Record]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield THREE[0]
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"p: cannot be written \(No space left"):
        write_prepared(tmp_path / "p", Half(THREE), ABOUT)
    assert list(tmp_path.iterdir()) == []
