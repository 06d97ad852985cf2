"""A judgement on the disk is whole or not there, and is what the readers read."""

import errno
import json
import os
import pathlib

import pytest

from rlhf_jax.data.choices import ChoiceFile, choice_row, prompt_field
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError

ASKED = (Message("user", "Two and two?"),)
DIALOGUE = (Message("system", "Be short."), *ASKED, Message("assistant", "4"), Message("user", "Sure?\u2028</script>"))


def row(choice: str = "A", turns: tuple[Message, ...] = ASKED, **about: object) -> dict[str, object]:
    texts, rewards = ("It is 4.", "<b>5</b>"), ((0.25, 0.75), (0.5, float("nan")))
    return choice_row(turns, texts, choice, rewards, annotator="alex", model="runs/a:ppo", about=about)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "ranks"),
    [("A", [("It is 4.", 0), ("<b>5</b>", 1)]), ("B", [("<b>5</b>", 0), ("It is 4.", 1)]), ("tie", None)],
)
@pytest.mark.parametrize("turns", [ASKED, DIALOGUE])
def test_what_is_written_is_read(
    tmp_path: pathlib.Path, choice: str, ranks: list[tuple[str, int]] | None, turns: tuple[Message, ...]
) -> None:
    with ChoiceFile(tmp_path / "new" / "labels.jsonl") as file:
        file.add(row(choice, turns, seed=7, draw=0, time="2026-11-29T12:00:00+00:00"))
    found = read_file(file.path)
    (record,) = found.records
    assert found.format == "lists"
    assert record.annotator == "alex"
    assert [(one.text, one.rank) for one in record.responses] == (ranks or [("It is 4.", 0), ("<b>5</b>", 0)])
    assert {one.source for one in record.responses} == {"runs/a:ppo"}
    assert all(one.score is None and one.label is None for one in record.responses)  # rewards are no feedback
    assert record.messages == (turns if len(turns) > 1 else ())
    if len(turns) == 1:
        assert record.prompt == "Two and two?"
    kept = json.loads(file.path.read_text())
    assert (kept["seed"], kept["choice"]) == (7, choice)
    assert [one["reward"] for one in kept["responses"]] == [[0.25, 0.75], [0.5, None]]
    assert kept["prompt"] == prompt_field(turns)


def test_what_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(UserError, match="could not be read back: responses"):
        choice_row(ASKED, ("same", "same"), "A", ((), ()), annotator="", model="", about={})
    with pytest.raises(UserError, match="could not be read back: prompt"):
        choice_row((Message("user", "\ud800"),), ("a", "b"), "A", ((), ()), annotator="", model="", about={})


def test_a_torn_line_of_a_killed_session_is_told_of_and_mended(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.jsonl"
    with ChoiceFile(path) as file:
        file.add(row("A"))
        file.add(row("B"))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (first + 1, first + 25, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with ChoiceFile(path) as file:
            assert file.note.startswith(f"{path}:2: a line cut short")
            assert len(file.rows) == 1
            file.add(row("tie"))
        assert len(read_file(path).records) == 2
    with ChoiceFile(path) as file:
        assert not file.note
        assert len(file.rows) == 2


@pytest.mark.parametrize("text", ["a note without an end", "{", '{"text": "something else"}\n', "no json\n"])
def test_another_file_is_left_as_it_is(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    if text == "{":  # may be the beginning of a judgement
        ChoiceFile(path).close()
        return
    with pytest.raises(UserError, match=r"notes\.txt:1"):
        ChoiceFile(path)
    assert path.read_text() == text


def test_there_is_one_writer(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.jsonl"
    with ChoiceFile(path), pytest.raises(UserError, match="another session"):
        ChoiceFile(path)
    ChoiceFile(path).close()


def test_a_full_disk_leaves_no_half_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.write, 0

    def full(file: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:10])

    with ChoiceFile(tmp_path / "labels.jsonl") as file:
        file.add(row("A"))
        before = file.path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(UserError, match="No space left on device"):
                file.add(row("B"))
        assert file.path.read_bytes() == before
        file.add(row("B"))
    assert len(read_file(file.path).records) == 2


def test_a_line_is_on_the_disk_before_the_next_question(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    path = tmp_path / "labels.jsonl"
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes()))
    with ChoiceFile(path) as file:
        file.add(row("A"))
    assert synced == [path.read_bytes()]
