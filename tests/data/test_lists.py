"""Sizes of batches of lists: as few as there are, as narrow as they can be, and every token where it belongs."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import loader
from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import LEAST, SLOTS, ListSizes, fitting, groups_of, ladder, sizes_of, widths
from rlhf_jax.types import ListTokens

PAD = 0


def example(number: int, prompt: int, *responses: int) -> ListExample:
    """So many tokens of a prompt and of each response; no two lists have a token in common."""
    fresh = itertools.count(100 * number + 1)
    made = [np.array([next(fresh) for _ in range(size)], np.int32) for size in (prompt, *responses)]
    return ListExample(made[0], tuple(made[1:]), tuple(range(len(responses))), "", number)


def read(batch: ListTokens) -> list[list[list[int]]]:
    """The responses of each list behind their prompt, found by slot and owner."""
    rows, columns = batch.ids.shape[:2] if batch.slot is None else batch.slot.shape
    share = rows // len(batch.ids)
    found: list[list[list[int]]] = []
    for row in range(rows):
        prompt, own = batch.prompt_ids[row][batch.prompt_mask[row]].tolist(), []
        for column in range(columns):
            group, slot = (row, column) if batch.slot is None else (row // share, batch.slot[row, column])
            if slot >= 0 and batch.mask[group, slot].any():
                assert batch.owner is None or batch.owner[group, slot] == row % share
                own.append(prompt + batch.ids[group, slot][batch.mask[group, slot]].tolist())
        found.append(own)
    return found


def test_sizes_by_hand() -> None:
    assert widths(100) == (80, 100)
    assert widths(256) == (192, 256)
    assert widths(20) == (16, 20)
    assert widths(17) == (16, 17)
    assert widths(16) == (16,)
    assert widths(12) == (12,)
    assert ladder(64, 8) == (8, 16, 24, 32, 40, 48, 56, 64)
    assert ladder(3, 8) == (1, 2, 3)
    assert (fitting((32, 64), 32), fitting((32, 64), 33)) == (32, 64)
    assert sizes_of([example(0, 20, 3, 40), example(1, 5, 1, 2, 3)], 8) == ListSizes((16, 20), (32, 40), 3)


@given(st.integers(1, 5000), st.integers(1, 9))
def test_sizes_are_few_and_reach_their_end(most: int, steps: int) -> None:
    for sizes, count in ((ladder(most, steps), steps), (widths(most), 2)):
        assert list(sizes) == sorted(set(sizes))
        assert sizes[-1] == most
        assert len(sizes) <= count
    assert all(size % LEAST == 0 and 4 * size >= 3 * most for size in widths(most)[:-1])


LISTS = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=5)), min_size=1, max_size=11
)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.sampled_from([0, 1, 2, 4]))
def test_every_token_is_where_it_belongs_and_no_batch_is_wider_than_it_has_to_be(shapes, groups: int) -> None:
    lists = [example(number, prompt, *responses) for number, (prompt, responses) in enumerate(shapes)]
    sizes = sizes_of(lists, 4, groups)
    seen: list[list[list[int]]] = []
    for batch in loader.rank_eval_batches(lists, {}, 4, sizes, PAD):
        seen += read(batch)
        assert batch.prompt_ids.shape[1] in sizes.prompts
        assert batch.prompt_ids.shape[1] == fitting(sizes.prompts, batch.prompt_mask.sum(axis=1).max())
        assert batch.ids.shape[2] == fitting(sizes.responses, batch.mask.sum(axis=2).max())
        if groups:
            slots, full = batch.ids.shape[1], 4 // groups * sizes.columns
            filled = batch.response_mask.reshape(groups, -1).sum(axis=1).max()
            assert slots < filled + max(1, -(-full // SLOTS))
            assert len(batch.ids) == groups or slots == sizes.columns
    kept = [[one.responses[place] for place in loader.thin(one.ranks, 4)] for one in lists]
    wanted = [[one.prompt.tolist() + ids.tolist() for ids in own] for one, own in zip(lists, kept, strict=True)]
    assert seen == wanted + [[]] * (len(seen) - len(lists))


def test_lists_of_two_to_eight_cost_what_their_responses_cost() -> None:
    """Eight lists on one device: of 64 slots so many as there are responses, to the next multiple of eight."""
    random = np.random.default_rng(0)
    lists = [example(number, 3, *[2] * int(random.integers(2, 9))) for number in range(400)]
    stream = loader.rank_batches(lists, {}, 8, sizes_of(lists, 8, groups=1), 0, PAD)
    batches = [next(stream) for _ in range(100)]
    taken = [batch.mask.shape[0] * batch.mask.shape[1] for batch in batches]
    there = [int(batch.response_mask.sum()) for batch in batches]
    assert all(slots - 8 < own <= slots for slots, own in zip(taken, there, strict=True))
    assert np.mean(there) < 42
    assert np.mean(taken) < 1.12 * np.mean(there)
    assert np.mean(taken) < 0.73 * 64


def test_the_number_of_sizes_is_bounded() -> None:
    """Whatever the lengths there are no more than 32, and of pairs four; tokens are few more than by 128 sizes."""
    random = np.random.default_rng(1)

    def lengths(most: int, *count: int) -> np.ndarray:
        return np.clip(random.lognormal(np.log(0.3 * most), 0.7, count), 1, most).astype(int)

    lists = [example(number, *lengths(400, 1), *lengths(90, int(random.integers(2, 9)))) for number in range(300)]
    for records, most in ((lists, 2 * 2 * SLOTS), ([example(i, 1 + i, 1 + i % 90, 1) for i in range(300)], 4)):
        sizes = sizes_of(records, 8, groups=2)
        assert (len(sizes.prompts), len(sizes.responses)) == (2, 2)
        finer = dataclasses.replace(
            sizes, prompts=ladder(sizes.prompts[-1], 4), responses=ladder(sizes.responses[-1], 4)
        )
        met, tokens = [], []
        for own in (sizes, finer):
            stream = loader.rank_batches(records, {}, 4, own, 0, PAD)
            batches = [next(stream) for _ in range(300)]
            tokens.append(sum(batch.prompt_ids.size + batch.ids.size for batch in batches))
            met.append(len({(batch.prompt_ids.shape, batch.ids.shape) for batch in batches}))
        assert met[0] <= most
        assert met[0] < met[1]
        assert tokens[0] < 1.06 * tokens[1]


@pytest.mark.parametrize(("slots", "groups"), [(4, 2), (3, 1), (16, 4)])
def test_groups_hold_all_responses_in_order(slots: int, groups: int) -> None:
    """A list that goes on in the next group has its prompt there as well."""
    lists = [example(0, 2, 1, 2, 3), example(1, 3, *[2] * 9), example(2, 1, 4), example(3, 5, 1, 1)]
    found: list[list[int]] = []
    for batch, filled in groups_of(lists, sizes_of(lists, 0), slots, groups, PAD):
        assert batch.ids.shape[:2] == (groups, slots)
        most = len(batch.prompt_ids) // groups
        own = []
        for group, slot in np.ndindex(groups, slots):
            prompt = group * most + batch.owner[group, slot]
            row = batch.prompt_ids[prompt][batch.prompt_mask[prompt]].tolist()
            own.append(row + batch.ids[group, slot][batch.mask[group, slot]].tolist())
        found += own[:filled]
        assert not batch.mask.reshape(groups * slots, -1)[filled:].any()
    assert found == [one.prompt.tolist() + ids.tolist() for one in lists for ids in one.responses]


def test_a_batch_says_nothing_of_the_lists_around_it() -> None:
    """Its sizes follow from its own tokens: a stream that is resumed has the same ones."""
    lists = [example(number, 1 + 7 * number % 40, *[1 + number] * (1 + number % 3)) for number in range(12)]
    sizes = dataclasses.replace(sizes_of(lists, 3), groups=2)
    whole = loader.rank_batches(lists, {}, 4, sizes, 3, PAD)
    shapes = [next(whole).ids.shape for _ in range(9)]
    assert len(set(shapes)) > 1
    first = loader.rank_batches(lists, {}, 4, sizes, 3, PAD)
    for _ in range(4):
        next(first)
    other = loader.rank_batches(lists, {}, 4, sizes, 3, PAD)
    other.set_state(first.get_state())
    assert [next(other).ids.shape for _ in range(5)] == shapes[4:]
