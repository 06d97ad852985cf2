"""The room that the tokens of a rollout get: enough, of few sizes, and for what is worked on at once."""

from typing import Any

import jax
import numpy as np
import pytest

from rlhf_jax.build.programs import Program
from rlhf_jax.build.rooms import most_at_once, room_for, unpads, within
from rlhf_jax.config import default_config
from rlhf_jax.learners.step import _sum_over_parts
from rlhf_jax.models import DecoderSpec
from rlhf_jax.unpadding import ALL, Room


def test_rooms_are_few_and_always_enough() -> None:
    """Of all that a rollout of 130 slots, 60 of them of responses, may hold: 40 programs at most, 8 of full prompts."""
    slots, seen = np.array([130, 60]), set()
    for responses in range(61):
        for tokens in range(max(responses, 1), responses + 71):
            room = room_for(np.array([tokens, responses]), slots)
            assert tokens <= (room.tokens or 130) <= tokens + 130 / 8 + 1
            assert responses <= (room.responses or 60) <= responses + 60 / 4 + 1
            if tokens < responses + 70:  # or prompts are full
                seen.add(room)
    assert {room.tokens for room in seen} == {17, 33, 49, 65, 82, 98, 114, None}
    assert {room.responses for room in seen} == {15, 30, 45, None}
    assert len(seen) <= 8 * 4
    assert room_for(np.array([115, 8]), slots) == Room(None, 15)
    assert room_for(np.array([1, 0]), slots) == Room(17, 15)
    full = [room_for(np.array([70 + responses, responses]), slots) for responses in range(61)]
    assert set(full) == {Room(70 + size, size) for size in (8, 15, 23, 30, 38, 45, 53)} | {ALL}
    for responses, room in enumerate(full):
        assert responses <= (room.responses or 60) <= responses + 60 / 8 + 1
    assert room_for(np.array([70 + 45, 45]), slots) == Room(115, 45)
    assert room_for(np.array([70 + 46, 46]), slots) == Room(123, 53)


@pytest.mark.parametrize("microbatches", [1, 2, 3])
def test_an_update_has_room_for_the_largest_part_of_its_minibatches(microbatches: int) -> None:
    """By the sums of those parts that the learner itself works on one after the other."""
    random = np.random.default_rng(microbatches)
    lengths = random.integers(1, 20, (24, 2))
    orders = np.stack([random.permutation(24)[:12] for _ in range(4)])
    sums = []

    def seen(part: Any) -> Any:
        sums.append(part)
        return part.sum(axis=0)

    with jax.disable_jit():
        for order in orders:
            total = _sum_over_parts(seen, jax.numpy.asarray(lengths[order]), microbatches, None)
            np.testing.assert_array_equal(total, lengths[order].sum(axis=0))
    whole = [np.asarray(part).sum(axis=0) for part in sums if not isinstance(part, jax.core.Tracer)]
    np.testing.assert_array_equal(most_at_once(orders, lengths, microbatches), np.max(whole, axis=0))


def test_a_program_without_room_to_spare_is_the_program_itself() -> None:
    program = Program("one", lambda x, axis_name, room=ALL: (x, room), ("rows",), ("rows",))
    assert within(program, ALL) is program
    assert within(program, Room(3, 2)).function(1, axis_name=None) == (1, Room(3, 2))
    assert within(program, Room(3, 2)).name == "one"


def test_padding_is_left_out_where_that_pays() -> None:
    config = default_config()
    large = DecoderSpec(vocab_size=8192, width=512, depth=6, heads=8, kv_heads=8, mlp_width=1376)
    small = DecoderSpec(vocab_size=300, width=16, depth=1, heads=2, kv_heads=1, mlp_width=32)
    assert [unpads(config, spec, devices) for spec in (small, large) for devices in (1, 2)] == [
        False,
        False,
        True,
        False,
    ]
    for word, expected in (("yes", True), ("no", False)):
        config.ppo.unpad = word
        assert [unpads(config, spec, 1) for spec in (small, large)] == [expected] * 2
