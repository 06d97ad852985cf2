"""Records scored by a model that is a table: the reward of a text is what its last letter says."""

from collections.abc import Sequence

import numpy as np
import pytest

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.evaluation.scoring import Reader, comparable, measure_robustness, score_records

READER = Reader(build_tokenizer("byte"), max_prompt=4, max_response=6)


def record(*texts: str, ranks: tuple[int | None, ...] | None = None, **fields) -> Record:
    ranks = tuple(range(len(texts))) if ranks is None else ranks
    return Record("x", "ask", tuple(Response(text, rank) for text, rank in zip(texts, ranks, strict=True)), **fields)


def last_digit(lists: Sequence[ListExample]) -> np.ndarray:
    """The digit before the end of sequence; a response that was cut has none and gets -1."""
    rewards = []
    for ids in (ids for example in lists for ids in example.responses):
        ended = ids[-1] == READER.tokenizer.eos_id
        rewards.append(float(READER.tokenizer.decode(ids)[-1]) if ended else -1.0)
    return np.array(rewards)


def test_every_response_is_scored_in_its_place_and_read_as_the_model_reads_it():
    """Five letters and the end are six tokens; of seven letters six are read, and no end."""
    found = score_records(last_digit, READER, [record("a1", "abcd2", "abcdef3"), record("7", "8", ranks=(1, 0))])
    assert found.rewards.tolist() == [[1, 2, -1], [7, 8, 0]]
    assert found.mask.tolist() == [[True] * 3, [True, True, False]]
    assert found.lengths[found.mask].tolist() == [3, 6, 6, 2, 2]
    assert found.better[1, 1, 0]
    assert not found.better[1, 0, 1]
    assert np.isnan(found.gold).all()


def test_only_records_that_compare_something_are_comparable():
    kept = [record("1", "2"), record("1", "2", "3", ranks=(0, 1, 0), edges=((0, 1),))]
    left = [
        record("1", "2", ranks=(0, 0)),
        record("1"),
        record(),
        record("1", "2", ranks=(None, None)),
        record("1", "2", edges=()),
    ]
    assert comparable([*left, *kept]) == kept


def test_a_partial_order_keeps_its_comparisons():
    found = score_records(last_digit, READER, [record("1", "2", "3", ranks=(0, 1, 0), edges=((0, 1),))])
    assert np.argwhere(found.better[0]).tolist() == [[0, 1]]


def test_robustness_by_hand():
    """3 and 1 become 3 and 4 (the order turns round), 5 and 2 become 5 and 4; standard deviation of 3 1 5 2."""
    records = [record("a3", "a1"), record("a5", "a2")]
    before = score_records(last_digit, READER, records)
    changes = {"to four": lambda text: "a4" if text in ("a1", "a2") else text, "nothing": lambda text: text}
    found = measure_robustness(last_digit, READER, records, before, changes)
    assert found["to four"].shift == pytest.approx((3 + 2) / 4 / np.std([3, 1, 5, 2]))
    assert (found["to four"].flips, found["to four"].changed) == (0.5, 0.5)
    assert (found["nothing"].shift, found["nothing"].flips, found["nothing"].changed) == (0.0, 0.0, 0.0)


def test_where_gold_is_known_a_forced_order_of_equals_cannot_turn_round():
    responses = tuple(
        Response(text, rank, score) for rank, (text, score) in enumerate([("3", 1.0), ("1", 1.0), ("0", 0.0)])
    )
    records = [Record("x", "ask", responses)]
    before = score_records(last_digit, READER, records)
    found = measure_robustness(last_digit, READER, records, before, {"up": lambda text: text.replace("1", "4")})
    assert found["up"].flips == 0.0
