"""Files of dialogues under a chat template: every record has turns, and what cannot be rendered is a bad row."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from rlhf_jax.data.chat import Chat
from rlhf_jax.data.label_studio import in_turns, lists_row, task
from rlhf_jax.data.prepared import Fingerprint, read_fingerprint, write_prepared
from rlhf_jax.data.readers import read_file, sft_pairs
from rlhf_jax.data.readers.checks import BadRow
from rlhf_jax.data.readers.dialogue import render, turns_of
from rlhf_jax.data.records import Message, Record, Response
from rlhf_jax.errors import UserError
from tests.data.chats import backend, turns


@pytest.fixture(scope="module")
def merged() -> Chat:
    made = backend("bytes", "merged")
    return Chat(made, made.eos_token_id, made.pad_token_id, "here")


def write(path: pathlib.Path, *rows: dict[str, Any]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"{role} {place}"} for place, role in enumerate(roles)]


def test_a_refused_dialogue_is_a_bad_row(tmp_path: pathlib.Path, merged: Chat) -> None:
    good = {"messages": said("system", "user", "assistant")}
    bad = {"messages": said("user", "user", "assistant")}
    path = write(tmp_path / "a.jsonl", good, bad, {"messages": []}, *[good] * 300)
    wrong = "messages: roles must alternate: user, assistant, user"
    with pytest.raises(UserError, match=r"a\.jsonl:3: messages: no messages"):
        read_file(path, chat=merged)
    path = write(tmp_path / "a.jsonl", good, bad, *[good] * 300)
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {wrong}$"):
        read_file(path, chat=merged)
    assert len(read_file(path).records) == 302
    found = read_file(path, on_bad_row="skip", rejects_path=tmp_path / "rejects.jsonl", chat=merged)
    assert (len(found.records), found.rejected) == (301, [(2, wrong)])
    assert (tmp_path / "rejects.jsonl").read_text() == json.dumps({"line": 2, "reason": wrong}) + "\n"
    assert found.records[0].messages == (Message("system", "system 0"), Message("user", "user 1"))
    assert sft_pairs(found.records[:1], turns=True) == [(found.records[0].messages, "assistant 2")]
    path = write(tmp_path / "b.jsonl", *[good] * 50, bad)
    with pytest.raises(UserError, match=r"b\.jsonl:51: .*in all 1 bad rows of 51, more than 1 %"):
        read_file(path, on_bad_row="skip", chat=merged)


def test_answers_are_rendered_when_they_are_read(tmp_path: pathlib.Path) -> None:
    made = backend("bytes", "loud")
    loud = Chat(made, made.eos_token_id, made.pad_token_id, "here")
    row = {"prompt": "a", "responses": [{"text": "b", "label": 0, "refined": "c <|im_end|>"}]}
    with pytest.raises(UserError, match=r"a\.jsonl:1: messages: the chat template changes what is said"):
        read_file(write(tmp_path / "a.jsonl", row), chat=loud)


def test_a_bare_prompt_is_what_a_user_said(tmp_path: pathlib.Path, merged: Chat) -> None:
    row = {"prompt": " what ?", "chosen": "this", "rejected": "that"}
    (record,) = read_file(write(tmp_path / "a.jsonl", row), chat=merged).records
    assert record.messages == (Message("user", " what ?"),)
    assert record.prompt == " what ?"
    (record,) = read_file(tmp_path / "a.jsonl").records
    assert record.messages == ()


def test_transcripts_are_taken_apart(tmp_path: pathlib.Path, merged: Chat) -> None:
    shared = "\n\nHuman: how ?\n\nAssistant: so .\n\nHuman: and\n\nthen ?\n\nAssistant:"
    path = write(tmp_path / "a.jsonl", {"chosen": f"{shared} well .", "rejected": f"{shared} no ."})
    (record,) = read_file(path, chat=merged).records
    assert record.messages == turns("how ?", "so .", "and\n\nthen ?")
    assert [one.text for one in record.responses] == ["well .", "no ."]
    assert record.prompt == shared
    (record,) = read_file(path).records
    assert [one.text for one in record.responses] == [" well .", " no ."]

    path = write(tmp_path / "b.jsonl", {"text": "no turns in this text at all"})
    with pytest.raises(UserError, match=r"b\.jsonl:1: prompt: no dialogue that ends with \"Assistant:\"$"):
        read_file(path, chat=merged)


def test_turns_of_is_the_inverse_of_render() -> None:
    dialogue = (Message("system", "hush"), *turns("a", "b\n\nc", "d"), Message("tool", "42"))
    assert turns_of(render(dialogue, "{prompt}")) == dialogue
    for text, why in (
        ("\n\nHuman: a\n\nAssistant: b", "no dialogue"),
        ("\n\nAssistant:", "no turn before"),
        ("\n\nHuman:\n\nAssistant:", "an empty turn of the user"),
    ):
        with pytest.raises(BadRow, match=why):
            turns_of(text)


def test_prepared_records_remember_the_template(tmp_path: pathlib.Path, merged: Chat) -> None:
    record = Record("1", "a", (Response("b", 0), Response("c", 1)), messages=turns("a"))
    about = Fingerprint("f", "", "messages", "{prompt}", 0.0, "overall", 1, 0, 0, 0, 1, chat=merged.sha256)
    write_prepared(tmp_path / "chat", [record], about)
    write_prepared(tmp_path / "plain", [record], dataclasses.replace(about, chat=""))
    assert list(read_file(tmp_path / "chat", chat=merged).records) == [record]
    assert list(read_file(tmp_path / "plain").records) == [record]
    with pytest.raises(
        UserError, match=r"^data\.chat: .*chat was prepared for the chat template of sha256 .*, not with"
    ):
        read_file(tmp_path / "chat")
    with pytest.raises(UserError, match=r"^data\.chat: .*plain was prepared without a chat template, not for"):
        read_file(tmp_path / "plain", chat=merged)
    # A folder from before there were templates.
    path = tmp_path / "plain" / "fingerprint.json"
    values = json.loads(path.read_text())
    del values["chat"]
    path.write_text(json.dumps(values))
    assert read_fingerprint(tmp_path / "plain").chat == ""
    assert list(read_file(tmp_path / "plain").records) == [record]


def test_dialogues_come_back_from_the_people_asked(tmp_path: pathlib.Path) -> None:
    dialogue = turns("how ?", "so .", "and ?", system="hush")
    shown = task("pairwise", render(dialogue, "{prompt}"), ["x", "y"], {})
    in_turns(shown["data"], dialogue)
    judged = {"completed_by": 1, "result": [{"value": {"selected": "right"}}]}
    (record,) = read_file(write(tmp_path / "a.json", {**shown, "annotations": [judged]}), "label_studio").records
    assert (record.messages, record.prompt) == (dialogue, shown["data"]["prompt"])
    (tmp_path / "b.jsonl").write_text(lists_row(record))
    (again,) = read_file(tmp_path / "b.jsonl", template="Q: {prompt}").records
    assert (again.messages, again.prompt) == (dialogue, record.prompt)
    single = task("pairwise", "p", ["x", "y"], {})
    in_turns(single["data"], turns("p"))
    assert "prompt_messages" not in single["data"]
