"""What is held out of a file, and what in it can be imitated."""

import hashlib
from collections.abc import Sequence

from rlhf_jax.data.records import Prompt, Record, Response, asked
from rlhf_jax.errors import UserError


def split_records(
    records: Sequence[Record], validation_fraction: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """(train, validation), decided by a hash of the prompt: a prompt never falls on both sides.

    The fraction is met in expectation. Raises UserError if it is outside [0, 1), or leaves either side empty.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"data.validation_fraction: {validation_fraction} is outside [0, 1)")
    train: list[Record] = []
    validation: list[Record] = []
    for record in records:
        digest = hashlib.blake2b(f"{seed}:{record.prompt}".encode(), digest_size=8).digest()
        held_out = int.from_bytes(digest, "big") < validation_fraction * 2**64
        (validation if held_out else train).append(record)
    if not train or (validation_fraction > 0 and not validation):
        side = "validation" if train else "training"
        raise UserError(f"data.validation_fraction: {validation_fraction} of {len(records)} records leaves no {side}")
    return train, validation


def sft_pairs(records: Sequence[Record], *, turns: bool = False) -> list[tuple[Prompt, str]]:
    """(prompt, what to imitate) of each record that has it: of its best response, the first of equals, the mended text
    if there is one, else the response itself unless its label says that it is bad (below 0.5). ``turns``: the prompt is
    the record's messages, if it has some."""
    best = [(asked(record, turns=turns), min(record.responses, key=_rank)) for record in records if record.responses]
    return [
        (prompt, response.refined or response.text)
        for prompt, response in best
        if response.refined or response.label is None or response.label >= 0.5
    ]


def _rank(response: Response) -> int:
    return response.rank or 0
