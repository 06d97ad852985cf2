"""Critiques as tokens beside their responses, and refinements as demonstrations and pairs."""

import json
import pathlib

import numpy as np
import pytest

from rlhf_jax.data.critiques import (
    critique_batches,
    critique_eval_batches,
    critique_examples,
    refinement_demonstrations,
    refinement_pairs,
)
from rlhf_jax.data.examples import list_examples
from rlhf_jax.data.lists import ListSizes
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer

BYTES = build_tokenizer("byte")
RECORDS = [
    Record(
        "a", "p", (Response("x", 0, critique="ok"), Response("yy", 1), Response("z", 1, critique="too long")), "open"
    ),
    Record("b", "q", (Response("u", 1, critique=" "), Response("v", 0, critique="no"))),
]


def examples(max_critique: int = 5, separator: str = "|"):
    lists, _ = list_examples(RECORDS, BYTES, 4, 4)
    return critique_examples(RECORDS, lists, BYTES, separator, max_critique)


def text(ids: np.ndarray) -> str:
    return BYTES.decode(ids)


def test_examples_by_hand() -> None:
    found, cut = examples()
    assert [text(ids) for ids in found[0].context.responses] == ["x|", "yy|", "z|"]
    assert found[0].context.responses[0].tolist() == [*BYTES.encode("x"), BYTES.eos_id, *BYTES.encode("|")]
    ok, none, long = found[0].critiques
    assert (ok is not None, none, long is not None) == (True, None, True)
    assert ok.tolist() == [*BYTES.encode("ok"), BYTES.eos_id]
    assert text(long) == "too l"  # cut, and therefore without an end
    assert BYTES.eos_id not in long
    assert found[1].critiques[0] is None  # nothing but a space
    assert cut == 1


def test_a_separator_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        examples(separator="")


def test_critiques_stand_beside_their_own_responses_and_padding_is_masked() -> None:
    found, _ = examples()
    (batch,) = critique_eval_batches(found, {"open": 1}, 3, ListSizes((1,), (4,), 2), 5, BYTES.pad_id)
    assert batch.ids.shape == batch.mask.shape == (3, 2, 5)
    # Of three responses the best and the last are kept; in list b the second is the better one.
    rows = [
        [text(ids[mask]) for ids, mask in zip(*row, strict=True)] for row in zip(batch.ids, batch.mask, strict=True)
    ]
    assert rows == [["ok", "too l"], ["no", ""], ["", ""]]
    contexts = [
        [text(ids[mask]) for ids, mask in zip(*row, strict=True)]
        for row in zip(batch.lists.ids, batch.lists.mask, strict=True)
    ]
    assert [text(ids) for ids in batch.lists.prompt_ids[:2]] == ["p", "q"]
    assert contexts == [["x|", "z|"], ["v|", "u|"], ["", ""]]
    assert batch.mask.sum(axis=2).tolist() == [[3, 5], [3, 0], [0, 0]]
    assert np.all(batch.ids[~batch.mask] == BYTES.pad_id)
    assert batch.lists.utility.tolist() == [1, 0, 0]


def test_a_resumed_stream_is_the_uninterrupted_one() -> None:
    def stream():
        return critique_batches(examples()[0], {}, 2, ListSizes((1,), (4,), 3), 5, 7, BYTES.pad_id)

    whole = stream()
    wanted = [next(whole) for _ in range(6)]
    first = stream()
    for _ in range(3):
        next(first)
    second = stream()
    second.set_state(first.get_state())
    for place in range(3, 6):
        batch = next(second)
        assert np.array_equal(batch.ids, wanted[place].ids)
        assert np.array_equal(batch.lists.ids, wanted[place].lists.ids)


FILE = [
    {"prompt": "p", "responses": [{"text": "a", "rank": 0}, {"text": "b", "rank": 1, "critique": "c", "refined": "B"}]},
    {"prompt": "q", "id": "q1", "prompt_type": "open", "responses": [{"text": "d", "refined": "D", "score": 0.5}]},
    {"prompt": "r", "responses": [{"text": "e", "refined": "e"}, {"text": "f"}]},  # nothing was changed
    {"prompt": "p", "responses": [{"text": "b", "refined": "B"}, {"text": "a"}]},
]


@pytest.fixture
def records(tmp_path: pathlib.Path) -> list[Record]:
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FILE))
    return list(read_file(path, "lists").records)


def test_demonstrations_are_the_refined_texts_without_repeats(records: list[Record]) -> None:
    assert refinement_demonstrations(records) == [("p", "B"), ("q", "D")]


def test_pairs_put_the_refined_text_above_its_original(records: list[Record]) -> None:
    pairs = refinement_pairs(records)
    assert [[(r.text, r.rank) for r in pair.responses] for pair in pairs] == [
        [("B", 0), ("b", 1)],
        [("D", 0), ("d", 1)],
        [("B", 0), ("b", 1)],
    ]
    assert pairs[0].responses[1].critique == "c"
    assert [pair.prompt for pair in pairs] == ["p", "q", "p"]
    assert (pairs[1].id, pairs[1].prompt_type) == ("q1/refined0", "open")
    assert len({pair.id for pair in pairs}) == 3
    # The original's score is not trained on a second time.
    assert pairs[1].responses[1].score is None
    assert list_examples(pairs, BYTES, 4, 4)[0][0].ranks == (0, 1)
