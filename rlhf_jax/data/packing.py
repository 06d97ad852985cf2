"""Several demonstrations in one row, so that little of a batch is padding."""

import bisect
from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.examples import SFTExample
from rlhf_jax.types import TokenBatch


def pack_examples(examples: Sequence[SFTExample], row_length: int, pad_id: int) -> TokenBatch:
    """All examples in as few rows of ``row_length`` tokens as best-fit decreasing finds: arrays of (rows, row_length).

    The longest example goes first, each into the fullest row that still holds it (the earliest of equals). Targets
    are the response tokens, end of sequence included. Raises ValueError when an example is longer than a row.
    """
    sizes = [len(example.prompt) + len(example.response) for example in examples]
    if max(sizes, default=0) > row_length:
        raise ValueError(f"an example of {max(sizes)} tokens does not fit a row of {row_length}")
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for place in sorted(range(len(examples)), key=lambda place: -sizes[place]):
        found = bisect.bisect_left(space, (sizes[place], -1))
        if found < len(space):
            free, row = space.pop(found)
        else:
            free, row = row_length, len(rows)
            rows.append([])
        rows[row].append(place)
        bisect.insort(space, (free - sizes[place], row))

    shape = (len(rows), row_length)
    ids = np.full(shape, pad_id, np.int32)
    positions, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    loss_mask = np.zeros(shape, bool)
    for row, places in enumerate(rows):
        start = 0
        for segment, place in enumerate(places, start=1):
            end = start + sizes[place]
            first_target = start + len(examples[place].prompt)
            ids[row, start:end] = np.concatenate([examples[place].prompt, examples[place].response])
            positions[row, start:end] = np.arange(sizes[place])
            segments[row, start:end] = segment
            loss_mask[row, first_target:end] = True
            start = end
    return TokenBatch(ids=ids, positions=positions, segments=segments, loss_mask=loss_mask)


def padding_share(rows: TokenBatch) -> float:
    """Of all tokens of packed rows the part that is padding, from 0 to 1; 0 of no rows."""
    return float(np.mean(rows.segments == 0)) if rows.segments.size else 0.0
