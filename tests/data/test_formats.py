"""Every published format: what its rows become, how it is told from the others, and what is refused in it."""

import json
import pathlib
import re

import pytest

from rlhf_jax import config
from rlhf_jax.data.readers import ANNOTATORS, FORMATS, read_file
from rlhf_jax.data.readers.formats import detect
from rlhf_jax.errors import UserError
from tests.data.published import BAD, FIXTURES, changed, write


@pytest.mark.parametrize("forced", [False, True], ids=["detected", "forced"])
@pytest.mark.parametrize("name", FIXTURES)
def test_rows_become_records(tmp_path, name: str, forced: bool) -> None:
    fixture = FIXTURES[name]
    path = write(tmp_path / "f.jsonl", fixture.rows)
    found = read_file(path, fixture.format if forced else "auto", **fixture.settings)
    assert found.records == list(fixture.records)
    assert (found.format, found.rows, found.rejected) == (fixture.format, len(fixture.rows), [])
    assert (found.duplicates, found.skipped) == (fixture.duplicates, fixture.skipped)


def test_there_is_a_fixture_of_every_format_and_the_configuration_knows_them() -> None:
    assert {fixture.format for fixture in FIXTURES.values()} == set(FORMATS) - {"auto"}
    assert {FIXTURES[name].format for name, *_ in BAD} == set(FORMATS) - {"auto"}
    assert config.DATA_FORMATS == FORMATS
    assert config.rule_of("data.annotators").text == "|".join(ANNOTATORS)
    page = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| .* \| `\{", page, re.MULTILINE)) == set(FORMATS) - {"auto"}


@pytest.mark.parametrize("name", FIXTURES)
def test_a_row_is_told_by_its_fields_alone(name: str) -> None:
    for row in FIXTURES[name].rows:
        assert detect(row) == FIXTURES[name].format
        assert detect(dict(reversed(row.items()))) == FIXTURES[name].format
        others = {"idx": 3, "margin": None, "label": None, "answers": None, "completions": None, "messages": None}
        assert detect({**others, **row}) == FIXTURES[name].format  # a table has every column in every row


@pytest.mark.parametrize(("name", "where", "value", "message"), BAD)
def test_bad_rows_are_named(tmp_path, name: str, where: str, value: object, message: str) -> None:
    fixture = FIXTURES[name]
    path = write(tmp_path / "f.jsonl", [*fixture.rows, changed(fixture.rows[0], where, value)])
    line = len(fixture.rows) + 1
    with pytest.raises(UserError, match=rf"^{tmp_path}/f\.jsonl:{line}: .*({message})"):
        read_file(path, fixture.format, **fixture.settings)


@pytest.mark.parametrize("other", [name for name in FIXTURES if FIXTURES[name].format != "lists"])
def test_a_file_keeps_the_format_of_its_first_row(tmp_path, other: str) -> None:
    # Else a list that lost its responses would be taken for a prompt without a word.
    path = write(tmp_path / "f.jsonl", [FIXTURES["lists, labels alone"].rows[0], FIXTURES[other].rows[0]])
    with pytest.raises(UserError, match=r"f\.jsonl:2: (prompt|responses)(\[0\])?(\.\w+)?: (missing|expected)"):
        read_file(path)


@pytest.mark.parametrize("row", [{}, {"a": 1}, {"instruction": "x"}, {"completions": []}, {"prompt": None}])
def test_a_row_of_no_format_is_refused(tmp_path, row: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"f\.jsonl:1: row: of no known format by its fields"):
        read_file(write(tmp_path / "f.jsonl", [row]))


def test_ids_of_rows_must_differ(tmp_path) -> None:
    row = FIXTURES["rewardbench"].rows[0]
    with pytest.raises(UserError, match=r"f\.jsonl:3: id: '0' is also that of line 1"):
        read_file(write(tmp_path / "f.jsonl", [row, {**row, "id": 1}, row]))


def test_a_file_without_a_judgement_is_refused(tmp_path) -> None:
    row = json.loads(json.dumps(FIXTURES["label_studio, pairwise"].rows[0]))
    row["annotations"] = row["annotations"][2:]
    with pytest.raises(UserError, match=r"f\.jsonl: file: no judgement in 1 rows, 2 were skipped"):
        read_file(write(tmp_path / "f.jsonl", [row]))
