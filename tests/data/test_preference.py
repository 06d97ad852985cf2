"""Batches of lists for the policy: which tokens are responses, what a reference says, responses to other prompts."""

import dataclasses

import numpy as np
import pytest

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import ListSizes
from rlhf_jax.data.preference import PreferenceShape, preference_batches, preference_eval_batches

PAD = 9
SHAPE = PreferenceShape(ListSizes((2,), (4,), 3), pad_id=PAD)


def example(index, prompt, *responses, **rest):
    ids = tuple(np.array(own, np.int32) for own in responses)
    return ListExample(np.array(prompt, np.int32), ids, tuple(range(len(ids))), "", index, **rest)


LISTS = [
    example(0, [5, 6], [1, 2], [3, 2]),
    example(1, [5, 6], [1, 1, 2], [2], [4, 2]),  # the same prompt again
    example(2, [7], [8, 8, 8, 2]),
]
KNOWN = np.array([[-1.0, -2.0, 0.0], [-3.0, -4.0, -5.0], [-6.0, 0.0, 0.0]], np.float32)


def test_responses_stand_by_themselves_behind_their_prompt():
    (batch,) = preference_eval_batches(LISTS, SHAPE, 4, KNOWN)
    np.testing.assert_array_equal(batch.lists.prompt_ids, [[5, 6], [5, 6], [PAD, 7], [PAD, PAD]])
    np.testing.assert_array_equal(batch.lists.mask.sum(axis=2), [[2, 2, 0], [3, 1, 2], [4, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch.lists.ids[1], [[1, 1, 2, PAD], [2, PAD, PAD, PAD], [4, 2, PAD, PAD]])
    np.testing.assert_array_equal(batch.ref_logprobs, [*KNOWN, [0, 0, 0]])
    np.testing.assert_array_equal(batch.lists.index, [0, 1, 2, -1])


def test_what_the_reference_says_stays_with_its_list_in_every_order():
    """And a resumed stream goes on where it was."""
    stream = preference_batches(LISTS, SHAPE, 2, 3, KNOWN)
    seen = [next(stream) for _ in range(4)]
    state = stream.get_state()
    for batch in [*seen, following := next(stream)]:
        np.testing.assert_array_equal(batch.ref_logprobs, KNOWN[batch.lists.index])
    assert len({tuple(batch.lists.index) for batch in seen}) > 1
    other = preference_batches(LISTS, SHAPE, 2, 3, KNOWN)
    other.set_state(state)
    np.testing.assert_array_equal(next(other).lists.ids, following.lists.ids)


def test_without_a_reference_there_are_zeros():
    (batch,) = preference_eval_batches(LISTS, SHAPE, 3)
    assert not batch.ref_logprobs.any()


def test_a_response_to_another_prompt_stands_in_a_column_of_its_own():
    shape = dataclasses.replace(SHAPE, mismatched=True)
    assert shape.columns == 4
    known = np.pad(KNOWN, [(0, 0), (0, 1)], constant_values=-7.0)
    (batch,) = preference_eval_batches(LISTS, shape, 4, known)
    plain = next(preference_eval_batches(LISTS, SHAPE, 4))
    for name in ("ids", "mask", "response_mask"):
        np.testing.assert_array_equal(getattr(batch.lists, name)[:, :3], getattr(plain.lists, name))
    np.testing.assert_array_equal(batch.lists.better[:, :3, :3], plain.lists.better)
    # The next list with another prompt: 2 for both 0 and 1, then round to 0, whose place 2 of 2 responses is its first.
    expected = [[8, 8, 8, 2], [8, 8, 8, 2], [1, 2, PAD, PAD], [PAD] * 4]
    np.testing.assert_array_equal(batch.lists.ids[:, 3], expected)
    np.testing.assert_array_equal(batch.lists.mask[:, 3].sum(axis=1), [4, 4, 2, 0])
    np.testing.assert_array_equal(batch.ref_logprobs[:3, 3], -7.0)
    assert not batch.lists.response_mask[:, 3].any()
    assert not batch.lists.better[:, 3].any()
    assert not batch.lists.better[:, :, 3].any()
    assert np.isnan(batch.lists.labels[:, 3]).all()


def test_annotators_have_their_weights():
    lists = [dataclasses.replace(LISTS[0], annotator="hasty"), LISTS[1]]
    (batch,) = preference_eval_batches(lists, SHAPE, 2, annotator_weights={"hasty": 0.25})
    assert batch.lists.weight.tolist() == [0.25, 1.0]


def test_no_lists_are_no_stream():
    with pytest.raises(ValueError, match="no examples"):
        preference_batches([], SHAPE, 2, 0)
