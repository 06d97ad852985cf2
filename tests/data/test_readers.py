"""Files as they are read: lists and dialogues, rows that are no rows, what is set aside, and the real files."""

import gzip
import json
import pathlib

import pytest

from rlhf_jax.data.readers import read_file, sft_pairs, split_records, tiers
from rlhf_jax.data.records import Record, Response
from rlhf_jax.errors import UserError

GOOD = '{"prompt": "p", "responses": [{"text": "a"}, {"text": "b"}]}'


def write(folder: pathlib.Path, *rows: str | bytes, name: str = "data.jsonl") -> pathlib.Path:
    path = folder / name
    path.write_bytes(b"".join((row if isinstance(row, bytes) else row.encode()) + b"\n" for row in rows))
    return path


def test_ranked_lists(tmp_path) -> None:
    by_order = {"prompt": "one {x}", "responses": [{"text": "a"}, {"text": "b", "model": "m"}, {"text": "c"}]}
    by_score = {
        "prompt": "two",
        "prompt_type": "open",
        "responses": [{"text": "low", "score": 0.1}, {"text": "high", "score": 1}, {"text": "near", "score": 0.95}],
    }
    by_rank = {
        "prompt": "three",
        "responses": [
            {"text": "z", "score": 9, "rank": 5},
            {"text": "y", "score": 1, "rank": 2},
            {"text": "x", "rank": 5},
        ],
    }
    path = write(tmp_path, json.dumps(by_order), "", json.dumps(by_score), json.dumps(by_rank))
    one, two, three = read_file(path, template="Q: {prompt}\nA:", tie_margin=0.1).records
    assert one == Record(
        "data.jsonl:1", "Q: one {x}\nA:", (Response("a", 0), Response("b", 1, source="m"), Response("c", 2))
    )
    assert two == Record(
        "data.jsonl:3",
        "Q: two\nA:",
        (Response("high", 0, 1.0), Response("near", 0, 0.95), Response("low", 1, 0.1)),
        "open",
    )
    assert three.responses == (Response("y", 0, 1.0), Response("z", 1, 9.0), Response("x", 1))
    assert sft_pairs([one, two, three]) == [("Q: one {x}\nA:", "a"), ("Q: two\nA:", "high"), ("Q: three\nA:", "y")]


def test_what_is_imitated() -> None:
    records = [
        Record("1", "p", (Response("x", 1), Response("y", 0, label=0.5), Response("z", 0))),
        Record("2", "p", (Response("bad", label=0.0),)),
        Record("3", "p", (Response("bad", label=0.0, refined="mended"),)),
        Record("4", "p", ()),
        Record("5", "p", (Response("shown"),)),
    ]
    assert sft_pairs(records) == [("p", "y"), ("p", "mended"), ("p", "shown")]


def test_tiers_never_grow_wider_than_the_margin() -> None:
    # 0.4 and 0.3 are within 0.15, 0.3 and 0.2 too, but 0.2 is 0.2 below the best of its tier.
    assert tiers([0.2, 0.4, 0.3, 0.05], 0.15) == [1, 0, 0, 2]
    assert tiers([0.5, 0.25], 0.25) == [0, 1]  # the margin itself is not closer than the margin
    assert tiers([1.0, 2.0, 1.0], 0.0) == [1, 0, 1]


def test_repeated_texts_keep_the_first(tmp_path) -> None:
    row = {"prompt": "p", "responses": [{"text": t, "score": s} for t, s in [("a", 1), ("b", 2), ("a", 3), ("a", 0)]]}
    result = read_file(write(tmp_path, json.dumps(row)))
    assert result.duplicates == 2
    assert result.records[0].responses == (Response("b", 0, 2.0), Response("a", 1, 1.0))


def test_dialogues(tmp_path) -> None:
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"
    rows = [
        {"chosen": start + " good", "rejected": start + " goodness"},
        {"chosen": start, "rejected": start + " x"},
    ]
    path = write(tmp_path, *map(json.dumps, rows))
    (record,) = read_file(path, template="unused {prompt}", limit=1).records
    assert record == Record("data.jsonl:1", start, (Response(" good", 0), Response(" goodness", 1)))
    with pytest.raises(UserError, match=r"data.jsonl:2: chosen: empty response text"):
        read_file(path)


LIST = '{"prompt": "p", "responses": [{"text": "a", "score": %s}, {"text": "b", "score": 1}]}'
BAD = {
    "not JSON": ('{"prompt": ', "row: not JSON"),
    "too deep": ("[" * 100_000, "row: not JSON"),
    "not an object": ("[1]", "row: expected an object, found list"),
    "a string": ('"prompt"', "row: expected an object, found str"),
    "null": ("null", "row: expected an object, found NoneType"),
    "two objects": (GOOD + GOOD, "row: not JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "row: invalid UTF-8 at byte 12"),
    "surrogate": ('{"prompt": "\\ud800", "responses": []}', "prompt: lone surrogate"),
    "a key twice": ('{"prompt": "p", "responses": [], "prompt": "q"}', "prompt: given twice"),
    "a key twice inside": ('{"prompt": "p", "responses": [{"text": "a", "text": "b"}]}', "text: given twice"),
    "score NaN": (LIST % "NaN", r"responses\[0\].score: not finite"),
    "score infinite": (LIST % "-Infinity", r"responses\[0\].score: not finite"),
    "score beyond floats": (LIST % "1e400", r"responses\[0\].score: not finite"),
    "score of 400 digits": (LIST % ("9" * 400), r"responses\[0\].score: not finite"),
    "score of 5000 digits": (LIST % ("9" * 5000), "row: not JSON"),
    "score true": (LIST % "true", r"responses\[0\].score: expected a number, found bool"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(tmp_path, case: str) -> None:
    row, message = BAD[case]
    path = write(tmp_path, GOOD, row)
    with pytest.raises(UserError, match=rf"data\.jsonl:2: .*{message}"):
        read_file(path)


def test_skip_writes_rejects_and_stops_above_one_percent(tmp_path) -> None:
    rejects = tmp_path / "rejects.jsonl"
    path = write(tmp_path, *[GOOD] * 99, "oops")
    result = read_file(path, on_bad_row="skip", rejects_path=rejects)
    assert (len(result.records), result.rows) == (99, 100)
    (reject,) = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert reject["line"] == 100
    assert reject["reason"].startswith("row: not JSON")
    path = write(tmp_path, *[GOOD] * 98, "oops")
    with pytest.raises(UserError, match="1 bad rows of 99, more than 1 %"):
        read_file(path, on_bad_row="skip", rejects_path=rejects)
    assert json.loads(rejects.read_text())["line"] == 99


def test_the_head_of_a_file_is_held_to_the_same_rule(tmp_path) -> None:
    path = write(tmp_path, *['{"prompt": "p"}'] * 5)
    with pytest.raises(UserError, match=r"data\.jsonl:1: responses: .*3 bad rows of the first 3, more than 1 %"):
        read_file(path, "lists", on_bad_row="skip", limit=3)
    with pytest.raises(UserError, match="5 bad rows of 5, more than 1 %"):
        read_file(path, "lists", on_bad_row="skip", limit=200)
    assert read_file(write(tmp_path, *[GOOD] * 3, "oops"), on_bad_row="skip", limit=3).rejected == []


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_file_in_another_format_than_was_asked_for(tmp_path, on_bad_row: str) -> None:
    pair = '{"prompt": "p", "chosen": "a", "rejected": "b"}'

    def error(*rows: str, asked: str = "hh", setting: str = "--format") -> str:
        with pytest.raises(UserError) as caught:
            read_file(write(tmp_path, *rows), asked, on_bad_row=on_bad_row, setting=setting)
        return str(caught.value)

    hint = "; looks like format preference; set --format=preference or auto"
    assert error(pair, pair).endswith(hint)
    assert "looks like" not in error(pair, setting="")
    # Neither where the format asked for is that of other rows, nor where the other one does not read the row either.
    transcript = '{"chosen": "\\n\\nHuman: p\\n\\nAssistant: a", "rejected": "\\n\\nHuman: p\\n\\nAssistant: b"}'
    assert "looks like" not in error(transcript, pair)
    assert "looks like" not in error('{"prompt": "p", "chosen": "a"}', asked="lists")
    assert ("looks like" in error(pair, transcript)) is (on_bad_row == "error")  # where the second row is read, too


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_files_that_cannot_be_used(tmp_path, on_bad_row: str) -> None:
    whole = gzip.compress(b"\n".join([GOOD.encode()] * 2000))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[: len(whole) - 12])
    with pytest.raises(UserError, match=r"cut.jsonl.gz:\d+: file: truncated or damaged gzip"):
        read_file(cut, on_bad_row=on_bad_row)
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    cut.write_bytes(flipped)
    with pytest.raises(UserError, match="truncated or damaged gzip"):
        read_file(cut, on_bad_row=on_bad_row)
    with pytest.raises(UserError, match=r"data\.jsonl:1: file: empty"):
        read_file(write(tmp_path, "", "  "), on_bad_row=on_bad_row)
    with pytest.raises(UserError, match="file: cannot be read"):
        read_file(tmp_path / "absent.jsonl", on_bad_row=on_bad_row)
    with pytest.raises(UserError, match=": file: a folder, but not one that rlhf-jax prepare wrote"):
        read_file(tmp_path, on_bad_row=on_bad_row)


def test_gzip_byte_order_mark_and_limit(tmp_path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + GOOD.encode() + b"\n" + GOOD.encode() + b"\nbroken"))
    result = read_file(path, limit=2)
    assert (result.rows, [record.id for record in result.records]) == (2, ["data.jsonl.gz:1", "data.jsonl.gz:2"])


@pytest.mark.parametrize(
    "setting", [{"data_format": "csv"}, {"on_bad_row": "ignore"}, {"template": "{question}"}, {"annotators": "all"}]
)
def test_unknown_settings_are_refused(tmp_path, setting: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"^data\."):
        read_file(write(tmp_path, GOOD), **setting)


def test_split_keeps_each_prompt_on_one_side() -> None:
    records = [Record(str(i), f"prompt {i % 500}", ()) for i in range(1500)]
    train, validation = split_records(records, 0.2, seed=1)
    assert len(train) + len(validation) == 1500
    assert not {r.prompt for r in train} & {r.prompt for r in validation}
    assert len(validation) / 1500 == pytest.approx(0.2, abs=0.07)
    assert split_records(records, 0.2, seed=1) == (train, validation)
    assert split_records(records, 0.2, seed=2) != (train, validation)
    assert split_records(records, 0.0, seed=1) == (records, [])
    with pytest.raises(UserError, match="leaves no validation"):
        split_records(records[:1], 0.01, seed=0)


def test_real_ranked_lists(real_data) -> None:
    path = real_data / "alpaca_eval_lists.jsonl.gz"
    result = read_file(path)
    raw = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(result.records) == len(raw) == 640
    repeats = sum(len(row["responses"]) - len({r["text"] for r in row["responses"]}) for row in raw)
    assert result.duplicates == repeats > 0
    for row, record in zip(raw, result.records, strict=True):
        assert record.prompt == row["prompt"]
        scores = [response.score for response in record.responses]
        assert scores == sorted(scores, reverse=True)
    merged = read_file(path, tie_margin=0.01).records
    assert sum(len({r.rank for r in record.responses}) for record in merged) < sum(
        len({r.rank for r in record.responses}) for record in result.records
    )


def test_real_dialogues(real_data) -> None:
    path = real_data / "hh_harmless_base.jsonl.gz"
    result = read_file(path, on_bad_row="skip")
    raw = gzip.decompress(path.read_bytes()).splitlines()
    assert result.rows == len(raw) == 1800
    assert len(result.records) + len(result.rejected) == 1800
    for record in result.records:
        row = json.loads(raw[int(record.id.rsplit(":", 1)[1]) - 1])
        assert record.prompt.endswith("\n\nAssistant:")
        assert [record.prompt + r.text for r in record.responses] == [row["chosen"], row["rejected"]]
        assert [r.rank for r in record.responses] == [0, 1]
        assert row["chosen"].count("\n\nAssistant:") == record.prompt.count("\n\nAssistant:")
