"""Critiques and refinements in the data of a run: where they come from, and what is refused."""

import pytest
from ml_collections import ConfigDict

from rlhf_jax.build.data import Data
from rlhf_jax.build.language import check_separator, with_language
from rlhf_jax.config import default_config
from rlhf_jax.data import world
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.errors import UserError

CLOSED = "question : what is the capital of arvania ?"
RECORD = Record(
    "a",
    CLOSED,
    (Response("it is mora .", 0, 1.0), Response("it is tisk .", 1, 0.0), Response("tisk .", 1, 0.0)),
    "closed",
)


def data(record: Record = RECORD) -> Data:
    return Data([(CLOSED, "it is mora .")], [], [record], [record], [], [], None, ("read",))


def config(refinements: str = "none", stages: tuple[str, ...] = ("sft", "reward"), path: str = "") -> ConfigDict:
    found = default_config()
    found.data.refinements, found.data.path, found.stages = refinements, path, stages
    return found


def test_data_that_no_stage_asks_words_of_stay_as_they_are() -> None:
    given = data()
    assert with_language(config(), given) is given


def test_the_critique_stage_gets_the_worlds_critiques_on_both_sides_of_the_split() -> None:
    found = with_language(config(stages=("sft", "critique")), data())
    for lists in (found.lists, found.lists_validation):
        assert [r.critique.split()[-2] for r in lists[0].responses] == ["good", "forgot", "forgot"]
    assert len(found.lists) == len(found.sft) == 1


@pytest.mark.parametrize(("wanted", "demonstrations", "lists"), [("sft", 2, 1), ("pairs", 1, 3), ("both", 2, 3)])
def test_refinements_join_what_is_trained_on_and_nothing_held_out(wanted: str, demonstrations: int, lists: int) -> None:
    found = with_language(config(wanted), data())
    # "it is mora ." is demonstrated already; "mora ." is new.
    assert len(found.sft) == demonstrations
    assert set(found.sft) <= {(CLOSED, "it is mora ."), (CLOSED, "mora .")}
    assert len(found.lists) == lists
    for pair in found.lists[1:]:
        better, worse = pair.responses
        assert (better.rank, worse.rank) == (0, 1)
        assert world.gold(CLOSED, better.text) > world.gold(CLOSED, worse.text)
        assert better.critique == "capital is mora , answer is mora : good ."
    assert len(found.lists_validation) == 1
    assert found.sft_validation == []
    assert len(found.notes) == (3 if wanted == "both" else 2)


def test_a_file_without_critiques_or_refinements_is_told() -> None:
    with pytest.raises(UserError, match=r"config\.stages: critique, but no response .* mine\.jsonl has a critique"):
        with_language(config(stages=("sft", "critique"), path="mine.jsonl"), data())
    with pytest.raises(UserError, match=r"config\.data\.refinements: pairs, but no response .* has a refined text"):
        with_language(config("pairs", path="mine.jsonl"), data())


def test_a_file_keeps_its_own_words() -> None:
    own = Record("a", "p", (Response("x", 0, critique="fine"), Response("y", 1, critique="no", refined="z")))
    found = with_language(config("both", ("sft", "critique"), "mine.jsonl"), data(own))
    assert [r.critique for r in found.lists[0].responses] == ["fine", "no"]
    assert found.sft[-1] == ("p", "z")
    assert [(r.text, r.critique) for r in found.lists[1].responses] == [("z", ""), ("y", "no")]


def test_a_separator_of_unknown_words_is_told() -> None:
    wanted = config(stages=("sft", "critique"))
    check_separator(wanted, build_tokenizer("word"))
    wanted.critique.separator = "\n\nCritique: "
    check_separator(wanted, build_tokenizer("byte"))
    with pytest.raises(UserError, match=r"config\.critique\.separator: .* does not know"):
        check_separator(wanted, build_tokenizer("word"))
    wanted.stages = ("sft",)
    check_separator(wanted, build_tokenizer("word"))
