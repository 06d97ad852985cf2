"""Truncation and packing, worked by hand."""

import numpy as np
import pytest

from rlhf_jax.data.examples import SFTExample, TruncationCounts, list_examples, prompt_rows, sft_examples, types_in_turn
from rlhf_jax.data.packing import pack_examples, padding_share
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.errors import UserError


def example(prompt: list[int], response: list[int]) -> SFTExample:
    return SFTExample(np.asarray(prompt, np.int32), np.asarray(response, np.int32))


def test_truncation() -> None:
    bytes_ = build_tokenizer("byte")
    pairs = [("abcdef", "uvw"), ("abcd", "uvwx"), ("abc", "uvwxyz")]
    examples, counts = sft_examples(pairs, bytes_, max_prompt=4, max_response=4)
    assert [bytes_.decode(e.prompt) for e in examples] == ["cdef", "abcd", "abc"]
    # Three tokens and the end fit in four; four tokens fill it and have no end; six are cut to four.
    assert [bytes_.decode(e.response) for e in examples] == ["uvw", "uvwx", "uvwx"]
    assert [e.response[-1] == bytes_.eos_id for e in examples] == [True, False, False]
    assert [len(e.response) for e in examples] == [4, 4, 4]
    assert counts == TruncationCounts(prompts=1, responses=2, total_prompts=3, total_responses=3)


def test_lists_and_prompts() -> None:
    bytes_ = build_tokenizer("byte")
    records = [
        Record("x", "abcdef", (Response("uv", 0), Response("uvwxy", 1), Response("w", 1)), "open"),
        Record("y", "a", (Response("u", 0), Response("v", 1))),
    ]
    lists, counts = list_examples(records, bytes_, max_prompt=4, max_response=4)
    assert [bytes_.decode(r) for r in lists[0].responses] == ["uv", "uvwx", "w"]
    assert [len(r) for r in lists[0].responses] == [3, 4, 2]
    assert [(e.ranks, e.prompt_type, e.index) for e in lists] == [((0, 1, 1), "open", 0), ((0, 1), "", 1)]
    assert counts == TruncationCounts(prompts=1, responses=1, total_prompts=2, total_responses=5)
    rows, counts = prompt_rows(records, bytes_, max_prompt=5)
    assert [(bytes_.decode(row.ids), row.index) for row in rows] == [("bcdef", 0), ("a", 1)]
    assert counts == TruncationCounts(prompts=1, total_prompts=2)
    with pytest.raises(UserError, match=r"z: responses: .* rank"):
        list_examples([Record("z", "a", (Response("u", 0), Response("v")))], bytes_, 4, 4)
    with pytest.raises(UserError, match="no tokens"):
        prompt_rows([Record("z", " ", ())], build_tokenizer("word"), 4)


def test_packing_by_hand() -> None:
    examples = [
        example([1, 2], [3, 4, 5]),
        example([6], [7]),
        example([10, 11, 12, 13, 14], [15, 16, 17]),
        example([20, 21, 22], [23, 24]),
    ]
    # Sizes 5 2 8 5. 8 opens row 0 (4 left), 5 opens row 1 (7 left), 5 joins it (2 left), and 2 goes where it fits
    # best, row 1, though row 0 has room too.
    batch = pack_examples(examples, row_length=12, pad_id=99)
    np.testing.assert_array_equal(
        batch.ids,
        [[10, 11, 12, 13, 14, 15, 16, 17, 99, 99, 99, 99], [1, 2, 3, 4, 5, 20, 21, 22, 23, 24, 6, 7]],
    )
    np.testing.assert_array_equal(
        batch.segments, [[1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]]
    )
    np.testing.assert_array_equal(
        batch.positions, [[0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]]
    )
    np.testing.assert_array_equal(
        batch.loss_mask, [[0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1]]
    )


def test_packing_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    examples = [
        example(rng.integers(1, 50, rng.integers(1, 9)), rng.integers(1, 50, rng.integers(1, 9))) for _ in range(300)
    ]
    batch = pack_examples(examples, row_length=20, pad_id=0)
    found = [
        (tuple(ids[segments == s]), tuple(mask[segments == s]))
        for ids, segments, mask in zip(batch.ids, batch.segments, batch.loss_mask, strict=True)
        for s in range(1, segments.max() + 1)
    ]
    expected = [((*e.prompt, *e.response), (False,) * len(e.prompt) + (True,) * len(e.response)) for e in examples]
    assert sorted(found) == sorted(expected)
    tokens = sum(len(ids) for ids, _ in expected)
    assert len(batch.ids) <= 1.05 * tokens / 20


@pytest.mark.parametrize(("row_length", "count"), [(512, 5000), (1024, 500)])
def test_little_is_padding(row_length: int, count: int) -> None:
    """Of examples of 32 to 512 tokens under 2 %, told as the share of tokens that no example has."""
    sizes = np.random.default_rng(1).integers(32, 513, count)
    rows = pack_examples([example(np.ones(1), np.ones(size - 1)) for size in sizes], row_length, pad_id=0)
    assert padding_share(rows) == pytest.approx(1 - sizes.sum() / (len(rows.ids) * row_length), abs=1e-12)
    assert padding_share(rows) < 0.02
    assert padding_share(pack_examples([example([1], [2, 3])], 4, 0)) == 0.25


def test_too_long_for_a_row() -> None:
    with pytest.raises(ValueError, match="9 tokens does not fit a row of 8"):
        pack_examples([example([1, 2], [3]), example([1, 2, 3], [4, 5, 6, 7, 8, 9])], row_length=8, pad_id=0)


def test_prompt_types_take_turns_in_the_order_of_the_data() -> None:
    bytes_ = build_tokenizer("byte")
    answers = (Response("x", rank=0, score=None), Response("y", rank=1, score=None))
    records = [Record(str(i), f"p{i}", answers, kind) for i, kind in enumerate("aaabab")]
    lists, _ = list_examples(records, bytes_, 4, 4)
    assert [one.index for one in types_in_turn(lists, 5)] == [0, 3, 1, 5, 2]
    assert [one.index for one in types_in_turn(lists, 99)] == [0, 3, 1, 5, 2, 4]
    assert types_in_turn(lists, 0) == []
