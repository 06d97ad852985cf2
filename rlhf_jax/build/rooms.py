"""How many tokens the programs of PPO make room for: a few sizes, chosen by the lengths of a rollout, on the host.

Each is a program of its own, which compiles in seconds. They follow from the rollout alone, so that a run that is
resumed goes on by the same programs, to the same bits.
"""

import dataclasses
from functools import partial

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from rlhf_jax.build.programs import Program
from rlhf_jax.build.work import backward, reading_rows
from rlhf_jax.models import DecoderSpec
from rlhf_jax.unpadding import ALL, Room

# How many sizes there are, of the tokens of all slots: eighths, so that little is left empty; and of responses' slots,
# which logits alone are made for, quarters. Where prompts are full, eighths of responses' (docs/LOG.md, 2026-11-30).
SIZES, OF_RESPONSES = (8, 4), 8
PAYS = 3e11  # FLOPs of an iteration's updates by all slots: a size compiles in the time of one or two such iterations


def unpads(config: ConfigDict, policy: DecoderSpec, devices: int) -> bool:
    """Whether PPO leaves padding out; where rows are split over devices it is worked on, and ``yes`` is refused."""
    ppo, data = config.ppo, config.data
    if devices > 1 or ppo.unpad != "auto":
        return ppo.unpad == "yes"
    rows = ppo.epochs * ppo.prompts_per_iteration * ppo.samples_per_prompt
    length = data.max_prompt + data.max_response
    return backward(reading_rows(policy, rows, length, data.max_response), "all") >= PAYS


def room_for(tokens: Int[np.ndarray, "2"], slots: Int[np.ndarray, "2"]) -> Room:
    """Room for so many tokens, and tokens of responses, of so many slots; where it would take them all, as they are."""

    def size(tokens: int, slots: int, sizes: int) -> int | None:
        parts = max(-(-tokens * sizes // slots), 1)
        return None if parts == sizes else -(-slots * parts // sizes)

    prompts, responses = (int(slots[0] - slots[1]), int(slots[1]))
    if tokens[0] - tokens[1] == prompts:
        of_responses = size(int(tokens[1]), responses, OF_RESPONSES)
        return ALL if of_responses is None else Room(prompts + of_responses, of_responses)
    return Room(*map(size, tokens.tolist(), slots.tolist(), SIZES))


def most_at_once(
    orders: Int[np.ndarray, "U M"], lengths: Int[np.ndarray, "N 2"], microbatches: int
) -> Int[np.ndarray, "2"]:
    """The most tokens that an update of episodes of such ``lengths`` works on at once: those of a minibatch, or of one
    of its parts, of which the i-th has every so many-th row from i on.
    """
    parts = lengths[orders].reshape(len(orders), -1, microbatches, 2)
    return parts.sum(axis=1).max(axis=(0, 1))


def within(program: Program, room: Room) -> Program:
    """The program that has no more room than that."""
    if room == ALL:
        return program
    return dataclasses.replace(program, function=partial(program.function, room=room))
