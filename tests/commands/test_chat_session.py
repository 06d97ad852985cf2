"""A session around a stand-in for the model: what is asked, what is told when, and what is written down."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import pytest

from rlhf_jax.commands.chat_session import TRIES, Session, Talk, transcript
from rlhf_jax.data.choices import ChoiceFile
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampled:
    texts: list[str]
    rewards: np.ndarray
    cut: bool = False


class Standin:
    """Answers that name their draw and number; the second is liked by the reward model."""

    def __init__(self, members: int = 2) -> None:
        self.members, self.asked = members, []

    def __call__(self, turns: Sequence[Message], n: int, seed: int, draw: int) -> Sampled:
        self.asked.append((tuple(turns), n, seed, draw))
        rewards = np.array([[0.25, 0.5], [0.75, 1.0]])[:, : self.members]
        return Sampled([f"draw {draw} number {k}" for k in range(n)], rewards)


def session(path: pathlib.Path, answer: object = None, seed: int = 3) -> Session:
    made = answer or Standin()
    return Session(made, ChoiceFile(path), annotator="alex", model="m", seed=seed, settings={"temperature": 0.7})  # type: ignore[arg-type]


def test_a_choice_is_written_as_it_was_shown(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.jsonl"
    own = session(path)
    for choice in ("A", "B", "tie"):
        talk = own.ask(Talk(), f"question {choice}")
        own.choose(talk, choice)  # type: ignore[arg-type]
        kept = json.loads(path.read_text().splitlines()[-1])
        assert [one["text"] for one in kept["responses"]] == list(talk.pair.texts)
        assert [one["rank"] for one in kept["responses"]] == {"A": [0, 1], "B": [1, 0], "tie": [0, 0]}[choice]
        number = talk.pair.sides[0]
        assert talk.pair.texts[0] == f"draw {talk.pair.draw} number {number}"
        assert kept["responses"][0]["reward"] == [[0.25, 0.5], [0.75, 1.0]][number]  # stays with its text
        assert (kept["seed"], kept["draw"], kept["temperature"]) == (3, talk.pair.draw, 0.7)
        assert kept["sides"] == list(talk.pair.sides)
        assert kept["time"].endswith("+00:00")
    assert own.judged == 3
    assert [one.prompt for one in read_file(path).records] == ["question A", "question B", "question tie"]


def test_sides_are_drawn_by_the_seed(tmp_path: pathlib.Path) -> None:
    def sides(name: str, seed: int) -> list[tuple[int, int]]:
        own = session(tmp_path / name, seed=seed)
        return [own.ask(Talk(), "?").pair.sides for _ in range(64)]  # type: ignore[union-attr]

    first = sides("a", 0)
    assert first == sides("b", 0)
    assert first != sides("c", 1)
    # 64 fair coins: outside 16..48 with a probability of 5e-5.
    assert 16 < sum(one == (0, 1) for one in first) < 48


def test_scores_are_told_after_the_choice_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.jsonl"
    own = session(path)
    talk = own.ask(Talk(), "?")
    # Means 0.375 and 0.875, both 0.125 from their members.
    told = {0: "0.375 ± 0.125", 1: "0.875 ± 0.125"}
    a, b = talk.pair.sides
    assert not path.read_text()
    _, said = own.choose(talk, "tie")
    assert f"A {told[a]}, B {told[b]}" in said
    assert f"prefers {'AB'[talk.pair.sides.index(1)]}" in said


def test_one_member_has_no_spread_and_no_model_no_score(tmp_path: pathlib.Path) -> None:
    one = session(tmp_path / "one.jsonl", Standin(1))
    assert "±" not in one.choose(one.ask(Talk(), "?"), "A")[1]
    none = session(tmp_path / "none.jsonl", Standin(0))
    assert none.choose(none.ask(Talk(), "?"), "A")[1] == "kept: A (no reward model)"
    assert json.loads((tmp_path / "none.jsonl").read_text())["responses"][0]["reward"] == []


def test_a_dialogue_goes_on_after_what_was_chosen(tmp_path: pathlib.Path) -> None:
    answer = Standin()
    own = session(tmp_path / "labels.jsonl", answer)
    shown = own.ask(Talk(), "one")
    talk, _ = own.choose(shown, "B")
    first = talk.turns[-1].content
    assert first == shown.pair.texts[1]
    following = own.ask(talk, "two", go_on=True)
    assert answer.asked[-1][0] == (Message("user", "one"), Message("assistant", first), Message("user", "two"))
    assert transcript(following.pair.turns) == f"user: one\n\nassistant: {first}\n\nuser: two"
    assert own.skip(following) == talk  # the question is taken back
    own.choose(own.ask(talk, "two", go_on=True), "A")
    assert own.ask(talk, "new").pair.turns == (Message("user", "new"),)
    records = read_file(tmp_path / "labels.jsonl").records
    assert [len(record.messages) for record in records] == [0, 3]  # what was skipped is not there


def test_a_second_click_writes_nothing(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.jsonl"
    own = session(path)
    talk = own.ask(Talk(), "?")
    own.choose(talk, "A")
    for again in (lambda: own.choose(talk, "A"), lambda: own.skip(talk), lambda: own.choose(Talk(), "B")):
        with pytest.raises(UserError, match="nothing to judge"):
            again()
    assert len(path.read_text().splitlines()) == 1


def test_a_judgement_that_could_not_be_written_can_be_given_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = session(tmp_path / "labels.jsonl")
    talk = own.ask(Talk(), "?")
    with monkeypatch.context() as patch:
        patch.setattr(ChoiceFile, "add", lambda *_: (_ for _ in ()).throw(UserError("full")))
        with pytest.raises(UserError, match="full"):
            own.choose(talk, "A")
    own.choose(talk, "A")
    assert own.judged == 1


def test_a_later_session_draws_anew(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.jsonl"
    with ChoiceFile(path) as file:
        own = Session(Standin(), file, annotator="", model="", seed=3, settings={})
        own.skip(own.ask(Talk(), "?"))
        own.choose(own.ask(Talk(), "?"), "A")
    assert session(path).ask(Talk(), "?").pair.draw == 2


def test_another_seed_begins_at_nought(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.jsonl"
    with ChoiceFile(path) as file:
        own = Session(Standin(), file, annotator="", model="", seed=3, settings={})
        own.choose(own.ask(Talk(), "?"), "A")
    assert session(path, seed=4).ask(Talk(), "?").pair.draw == 0


def test_equal_and_empty_answers_are_drawn_again(tmp_path: pathlib.Path) -> None:
    def answer(turns: Sequence[Message], n: int, seed: int, draw: int) -> Sampled:
        return Sampled([["same", "same"], ["", "x"], ["a", "b"]][min(draw, 2)], np.zeros((2, 0)))

    own = session(tmp_path / "labels.jsonl", answer)
    assert set(own.ask(Talk(), "?").pair.texts) == {"a", "b"}
    dull = session(tmp_path / "dull.jsonl", lambda *_: Sampled(["same", "same"], np.zeros((2, 0))))
    with pytest.raises(UserError, match=f"{TRIES} pairs of answers were equal or empty"):
        dull.ask(Talk(), "?")
    with pytest.raises(UserError, match="nothing was asked"):
        own.ask(Talk(), "  ")
