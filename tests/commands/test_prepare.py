"""``rlhf-jax prepare`` on small files, and a run's data read from the folder it leaves."""

import hashlib
import json

import pytest

from rlhf_jax.build.data import load_data
from rlhf_jax.config import DATA_FORMATS, default_config, validate
from rlhf_jax.data.prepared import tokenizer_sha256
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.main import main
from tests.data.published import FIXTURES, write


def refused(*words: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(["prepare", *words])
    return caught.value.code


@pytest.mark.parametrize("name", ["hh", "label_studio, pairwise", "helpsteer3, apart"])
def test_a_run_reads_what_was_prepared(tmp_path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    fixture = FIXTURES[name]
    path = write(tmp_path / "f.jsonl", fixture.rows)
    settings = [f"--{key}={value}" for key, value in fixture.settings.items()]
    main(["prepare", str(path), f"--out={tmp_path / 'out'}", *settings])
    counts = f"{len(fixture.rows)} rows of format {fixture.format}, {len(fixture.records)} records"
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: {counts}")
    about = json.loads((tmp_path / "out" / "fingerprint.json").read_text())
    assert about["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (about["source"], about["rows"], about["skipped"]) == ("f.jsonl", len(fixture.rows), fixture.skipped)
    config = default_config()
    config.data.path, config.tokenizer.kind = str(tmp_path / "out"), "byte"
    config.data.update(fixture.settings)
    validate(config)
    data = load_data(config, limit=10)
    assert data.lists == list(fixture.records)


def test_a_second_time_and_another_thing(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "f.jsonl", FIXTURES["hh"].rows), str(tmp_path / "out")
    main(["prepare", str(path), f"--out={out}"])
    before = (tmp_path / "out" / "records.array_record").stat().st_mtime_ns
    main(["prepare", str(path), f"--out={out}", "--format=hh"])
    assert capsys.readouterr().out.splitlines()[1] == f"{out}: holds 1 records of f.jsonl already"
    assert (tmp_path / "out" / "records.array_record").stat().st_mtime_ns == before
    for words in ([str(path), "--template=Q {prompt}"], [str(write(tmp_path / "g.jsonl", FIXTURES["text"].rows))]):
        assert refused(*words, f"--out={out}") == 2
        assert f"prepare: --out: {out} exists and holds something else" in capsys.readouterr().err


def test_a_damaged_folder_does_not_hold_the_same(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "f.jsonl", FIXTURES["hh"].rows), tmp_path / "out"
    main(["prepare", str(path), f"--out={out}"])
    (out / "records.array_record").write_bytes(b"")
    assert refused(str(path), f"--out={out}") == 2
    assert f"{out / 'records.array_record'}: file: 0 bytes" in capsys.readouterr().err


def test_bad_rows_are_left_out_or_stop_it(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = FIXTURES["hh"].rows[0], {"chosen": "x"}
    path, out = write(tmp_path / "f.jsonl", [*[good] * 199, bad]), tmp_path / "out"
    assert refused(str(path), f"--out={out}") == 2
    assert f"{path}:200: rejected: missing" in capsys.readouterr().err
    assert not out.exists()
    main(["prepare", str(path), f"--out={out}", "--on_bad_row=skip"])
    assert "200 rows of format hh, 199 records, 1 bad rows left out" in capsys.readouterr().out
    assert json.loads((out / "rejects.jsonl").read_text()) == {"line": 200, "reason": "rejected: missing"}
    assert len(read_file(out).records) == 199


def test_the_tokenizer_is_kept_in_mind(tmp_path) -> None:
    byte = build_tokenizer("byte")
    save_tokenizer(byte, tmp_path / "tokenizer")
    path = write(tmp_path / "f.jsonl", FIXTURES["hh"].rows)
    main(["prepare", str(path), f"--out={tmp_path / 'out'}", f"--tokenizer={tmp_path / 'tokenizer'}"])
    about = json.loads((tmp_path / "out" / "fingerprint.json").read_text())
    assert about["tokenizer_sha256"] == tokenizer_sha256(byte)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outt=x", "f"], "prepare: --outt=x: no such option; did you mean --out?"),
        (["--zzz=x", "f"], "prepare: --zzz=x: no such option; the options are --out, --format"),
        (["f"], "prepare: --out=DIR is missing"),
        (["--out=x"], "prepare: FILE is missing"),
        (["f", "g", "--out=x"], "prepare: g: a second file"),
        (["f", "--out=x", "--out=y"], "prepare: --out=y: a second --out"),
        (["f", "--out="], "prepare: --out: no value given"),
        (["f", "--out=x", "--tie_margin=-1"], "prepare: --tie_margin: '-1' is not a number from 0"),
        (["f", "--out=x", "--tie_margin=nan"], "prepare: --tie_margin: 'nan' is not a number from 0"),
        (
            ["f", "--out=x", "--template={prompt} {prompt}"],
            "data.template: '{prompt} {prompt}' must contain {prompt} once",
        ),
        (["f", "--out=x", "--format=csv"], "data.format: 'csv' is not one of auto, lists"),
        (["/no/such/file", "--out=x"], "/no/such/file: file: cannot be read (No such file or directory)"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(*words) == 2
    assert message in capsys.readouterr().err


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in DATA_FORMATS)
    assert '("{prompt}")' in text
