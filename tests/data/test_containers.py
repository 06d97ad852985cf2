"""The same rows in every container, and containers that are cut, empty or not there."""

import dataclasses
import gzip
import json
import os
import pathlib
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import prepared
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.readers.checks import BadRow
from rlhf_jax.data.readers.formats import READERS, Found, Settings, detect
from rlhf_jax.data.records import Record, Response
from rlhf_jax.errors import UserError
from tests.data.published import FIXTURES, changed, write

# A column has one type: these mix true with 1, texts with lists, or have objects without fields.
NO_COLUMNS = {
    "lists, every field",
    "preference, explicit, conversational",
    "prompt",
    "argilla 1, records",
    "argilla 2, records",
}
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def renamed(name: str, place: str) -> list[Record]:
    """The fixture's records as they are called in a file where rows are not lines."""
    return [dataclasses.replace(r, id=r.id.replace("f.jsonl:", place)) for r in FIXTURES[name].records]


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("container", ["json", "json.gz", "indented", "jsonl.gz", "crlf"])
def test_text_containers(tmp_path, name: str, container: str) -> None:
    rows = list(FIXTURES[name].rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    texts = {
        "json": json.dumps(rows),
        "json.gz": "\ufeff\n " + json.dumps(rows, ensure_ascii=False),
        "indented": json.dumps(rows, indent=4) + "\n",
        "jsonl.gz": "\ufeff" + lines,
        "crlf": lines.replace("\n", "\r\n"),
    }
    path = tmp_path / {"indented": "f.jsonl", "crlf": "f.jsonl"}.get(container, f"f.{container}")
    data = texts[container].encode()
    path.write_bytes(gzip.compress(data) if container.endswith("gz") else data)
    lined = container in ("jsonl.gz", "crlf")
    assert read_file(path, **FIXTURES[name].settings).records == renamed(name, f"{path.name}:{'' if lined else 'row '}")


@pytest.mark.parametrize("name", sorted(FIXTURES.keys() - NO_COLUMNS))
def test_parquet(tmp_path, name: str) -> None:
    path = tmp_path / "f.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in FIXTURES[name].rows]), path)
    assert read_file(path, **FIXTURES[name].settings).records == renamed(name, "f.parquet:row ")


def test_parquet_of_many_batches_and_row_groups(tmp_path) -> None:
    rows = [{**PAIR, "prompt": f"p{i}"} for i in range(700)]
    rows[650]["rejected"] = "a"
    path = tmp_path / "f.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)
    with pytest.raises(UserError, match=r"f\.parquet:row 651: rejected: equals chosen"):
        read_file(path)
    found = read_file(path, on_bad_row="skip", rejects_path=tmp_path / "rejects.jsonl")
    assert [record.prompt for record in found.records] == [f"p{i}" for i in range(700) if i != 650]
    assert json.loads((tmp_path / "rejects.jsonl").read_text()) == {"row": 651, "reason": "rejected: equals chosen"}
    assert read_file(path, limit=3).rows == 3


def test_parquet_that_is_cut_or_damaged(tmp_path) -> None:
    path = tmp_path / "f.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR] * 1000), path)
    whole = path.read_bytes()
    for data in (whole[:-40], whole[:200], whole[:20] + bytes(100) + whole[120:]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"f\.parquet: file: truncated or damaged Parquet \([^\n]+\)$"):
            read_file(path)


ARRAYS = {
    "cut inside": ('[{"prompt": "p"}, {"prompt": ', r"f\.json:row 2: file: not a JSON array"),
    "cut between": ('[{"prompt": "p"}', r"f\.json:row 2: file: not a JSON array \(no end of the array"),
    "comma at the end": ('[{"prompt": "p"},]', r"f\.json:row 2: file: not a JSON array"),
    "more after it": ('[{"prompt": "p"}] []', r"f\.json:row 2: file: not a JSON array"),
    "too deep": ("[" * 100_000, r"f\.json:row 1: file: not a JSON array"),
    "not UTF-8": (b'[{"prompt": "\xff"}]', r"f\.json:row 1: file: not a JSON array"),
    "a number": ('[{"prompt": "p"}, 3]', r"f\.json:row 2: row: expected an object, found int"),
    "a key twice": ('[{"prompt": "p"}, {"prompt": "p", "prompt": "q"}]', r"f\.json:row 2: prompt: given twice"),
    "empty": ("[ ]", r"f\.json:1: file: empty"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_are_none(tmp_path, case: str) -> None:
    data, message = ARRAYS[case]
    (tmp_path / "f.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=message):
        read_file(tmp_path / "f.json")


def test_lines_that_begin_with_an_array(tmp_path) -> None:
    path = write(tmp_path / "f.jsonl", [["x"], PAIR])
    with pytest.raises(UserError, match=r"f\.jsonl:1: row: expected an object, found list"):
        read_file(path)


class FeedbackPairs(tfds.core.GeneratorBasedBuilder):
    """Two data sets in one: pairs, and ranked lists with nested features."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="pairs"), tfds.core.BuilderConfig(name="lists")]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        if self.builder_config.name == "pairs":
            features = {"chosen": text, "rejected": text}
        else:
            response = {
                "text": text,
                "score": tfds.features.Scalar(np.float64),
                "label": tfds.features.Scalar(np.bool_),
            }
            features = {"prompt": text, "responses": tfds.features.Sequence(response)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Any:
        if self.builder_config.name == "pairs":
            yield from enumerate(FIXTURES["hh"].rows)
            return
        labelled = [{"text": "aé", "score": 0.25, "label": True}, {"text": "b", "score": 0.75, "label": False}]
        yield 0, {"prompt": "p", "responses": labelled}


def test_tfds_without_tensorflow(tmp_path) -> None:
    for config in ("pairs", "lists"):
        builder = FeedbackPairs(config=config, data_dir=str(tmp_path), file_format="array_record")
        builder.download_and_prepare()
    names = ["tfds:feedback_pairs/pairs:test", "tfds:feedback_pairs/lists:1.0.0:train", "tfds:nowhere:train", "tfds:x"]
    program = f"""
import sys
from rlhf_jax.data.readers import read_file
for name in {names!r}:
    try:
        print(repr(read_file(name).records))
    except Exception as error:
        print(type(error).__name__, error)
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pairs, lists, nowhere, unnamed = done.stdout.splitlines()
    assert pairs == repr([dataclasses.replace(FIXTURES["hh"].records[0], id=f"{names[0]}:row 1")])
    responses = (Response("b", 0, 0.75, label=0.0), Response("aé", 1, 0.25, label=1.0))
    assert lists == repr([Record(f"{names[1]}:row 1", "p", responses)])
    assert nowhere.startswith("UserError tfds:nowhere:train: file: cannot be read (")
    assert nowhere.endswith("prepare it with tfds build --file_format=array_record")
    assert unnamed == "UserError tfds:x: expected tfds:NAME[/CONFIG]:SPLIT"


def test_hub_names(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*words: Any, **settings: Any) -> list[dict[str, Any]]:
        asked.append((words, settings))
        if words[0] == "no/such":
            raise FileNotFoundError("nothing there\nat all")
        return [dict(row) for row in FIXTURES["rewardbench"].rows]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    for name in ("hub:a/b", "hub:a/b:raw", "hub:a/b:core:raw"):
        assert read_file(name).records == FIXTURES["rewardbench"].records
    assert asked == [
        (("a/b", None), {"split": "train"}),
        (("a/b", None), {"split": "raw"}),
        (("a/b", "core"), {"split": "raw"}),
    ]
    with pytest.raises(UserError, match=r"^hub:no/such: file: cannot be read \(nothing there\)$"):
        read_file("hub:no/such")
    for name in ("hub:", "hub:a/b:", "hub:a/b:c:d:e"):
        with pytest.raises(UserError, match="expected hub:OWNER/NAME"):
            read_file(name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"^hub:a/b: needs the package datasets: pip install 'rlhf_jax\[hub\]'$"):
        read_file("hub:a/b")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "text", "rank"]), inner),
    max_leaves=4,
)


def paths_of(value: Any, prefix: str = "") -> list[str]:
    """Every place in a row."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in items for path in (f"{prefix}{key}", *paths_of(inner, f"{prefix}{key}/"))]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_junk_anywhere_is_a_record_or_a_bad_row(data: st.DataObject) -> None:
    fixture = FIXTURES[data.draw(st.sampled_from(sorted(FIXTURES)))]
    row = json.loads(json.dumps(fixture.rows[0]))
    row = changed(row, data.draw(st.sampled_from(paths_of(row))), data.draw(JUNK))
    other = READERS[data.draw(st.sampled_from([fixture.format, *READERS]))]
    for read in (other, lambda row, given: READERS[detect(row)](row, given)):
        found, reason = Found(()), "field: reason"
        try:
            found = read(row, Settings(**fixture.settings))
        except BadRow as error:
            reason = str(error)
        assert ": " in reason
        assert "\n" not in reason
        for record in found.records:
            assert prepared.record_from_json(prepared.record_to_json(record)) == record


def test_paths_are_files_of_this_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "f.jsonl", [PAIR])
    assert [record.id for record in read_file("f.jsonl").records] == ["f.jsonl:1"]
