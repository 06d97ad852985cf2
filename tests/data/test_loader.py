"""Batches: shapes and padding by hand, one epoch is a permutation, and a resumed stream is the same stream."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from rlhf_jax.data import loader
from rlhf_jax.data.examples import ListExample, PromptRow, SFTExample
from rlhf_jax.data.lists import ListSizes, sizes_of
from rlhf_jax.data.packing import pack_examples


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


ROWS = pack_examples([SFTExample(ints(i), ints(i, i, 99)) for i in range(1, 11)], row_length=5, pad_id=0)
PROMPTS = [PromptRow(ints(*range(10 * i, 10 * i + 1 + i % 3)), i) for i in range(10)]
LISTS = [
    ListExample(ints(i, i), (ints(7), ints(8, 9), ints(6)), (1, 0, 1), "closed" if i % 2 else "open", i)
    for i in range(10)
]
SIZES = ListSizes((3,), (3,), 4)
STREAMS: dict[str, Callable[[int], Iterator[Any]]] = {
    "sft": lambda seed: loader.sft_batches(ROWS, 4, seed),
    "rank": lambda seed: loader.rank_batches(LISTS, {"closed": 1}, 4, SIZES, seed, 0),
    "prompt": lambda seed: loader.prompt_batches(PROMPTS, 4, 2, 3, seed, 0),
}


def equal(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") and x.dtype == y.dtype for x, y in pairs)


@pytest.mark.parametrize("kind", STREAMS)
def test_resumed_stream_is_the_uninterrupted_one(kind: str) -> None:
    stream = STREAMS[kind](3)
    whole = [next(stream) for _ in range(12)]
    first = STREAMS[kind](3)
    assert all(equal(next(first), whole[i]) for i in range(5))
    state = first.get_state()
    next(first)
    second = STREAMS[kind](3)
    second.set_state(state)
    assert all(equal(next(second), whole[i]) for i in range(5, 12))
    assert not equal(next(STREAMS[kind](4)), whole[0])


def test_every_pass_is_a_new_permutation() -> None:
    stream = loader.prompt_batches(PROMPTS, 5, 1, 3, 0, 0)
    orders = [np.concatenate([next(stream).index, next(stream).index]).tolist() for _ in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_may_be_of_one(count: int) -> None:
    stream = loader.prompt_batches(PROMPTS[:count], 1, 1, 3, 0, 0)
    seen = [next(stream).index.tolist() for _ in range(2 * count)]
    assert sorted(seen[:count]) == sorted(seen[count:]) == [[place] for place in range(count)]


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert next(loader.prompt_batches(PROMPTS[:3], 8, 1, 3, 0, 0)).ids.shape == (8, 3)
    with pytest.raises(ValueError, match="no examples"):
        loader.prompt_batches([], 8, 1, 3, 0, 0)


def test_prompts_are_left_padded_and_repeated() -> None:
    batch = next(loader.prompt_batches(PROMPTS, 4, 2, 4, 0, pad_id=-7))
    np.testing.assert_array_equal(batch.row, range(8))
    np.testing.assert_array_equal(batch.index[::2], batch.index[1::2])
    for row in range(8):
        ids = PROMPTS[batch.index[row]].ids.tolist()
        assert batch.ids[row].tolist() == [-7] * (4 - len(ids)) + ids
        assert batch.mask[row].tolist() == [False] * (4 - len(ids)) + [True] * len(ids)


def test_ranked_list_by_hand() -> None:
    (batch,) = loader.rank_eval_batches(LISTS[1:2], {"closed": 2}, 2, SIZES, pad_id=0)
    np.testing.assert_array_equal(batch.prompt_ids, [[0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(batch.prompt_mask, [[0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(batch.ids, [[[8, 9, 0], [7, 0, 0], [6, 0, 0], [0] * 3], [[0] * 3] * 4])
    np.testing.assert_array_equal(batch.mask, [[[1, 1, 0], [1, 0, 0], [1, 0, 0], [0] * 3], [[0] * 3] * 4])
    np.testing.assert_array_equal(batch.ranks[0, :3], [0, 1, 1])
    np.testing.assert_array_equal(batch.response_mask, [[1, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.utility, [2, 0])


def test_utility_follows_the_prompt_type() -> None:
    batches = list(loader.rank_eval_batches(LISTS, {"closed": 1}, 4, SIZES, 0))
    assert np.concatenate([b.utility for b in batches]).tolist() == [0, 1] * 5 + [0, 0]


def test_long_lists_are_thinned_from_best_to_worst() -> None:
    assert loader.thin([4, 3, 2, 1, 0], 3) == [4, 2, 0]
    assert loader.thin([0, 1, 2, 3, 4, 5, 6, 7], 2) == [0, 7]
    assert loader.thin([1, 0, 1], 8) == [1, 0, 2]
    example = ListExample(ints(1), tuple(ints(i) for i in range(5)), (0, 0, 3, 3, 9), "", 0)
    (batch,) = loader.rank_eval_batches([example], {}, 1, sizes_of([example], 3), 0)
    assert batch.ids[0, :, 0].tolist() == [0, 2, 4]
    assert batch.ranks[0].tolist() == [0, 1, 2]


def test_evaluation_sees_everything_once_in_order() -> None:
    prompts = list(loader.prompt_eval_batches(PROMPTS, 4, 3, 0))
    assert np.concatenate([b.index for b in prompts]).tolist() == [*range(10), -1, -1]
    assert not prompts[-1].mask[2:].any()
    rows = list(loader.sft_eval_batches(ROWS, 4))
    assert all(b.ids.shape == (4, 5) for b in rows)
    np.testing.assert_array_equal(np.concatenate([b.ids for b in rows])[:10], ROWS.ids)
    np.testing.assert_array_equal(np.concatenate([b.loss_mask for b in rows])[:10], ROWS.loss_mask)
    assert not rows[-1].loss_mask[2:].any()
    assert not rows[-1].segments[2:].any()
    assert rows[-1].segments[:2].any()
