"""Several demonstrations in one row, so that little of a batch is padding."""

import bisect
from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.examples import SFTExample, TruncationCounts
from rlhf_jax.types import TokenBatch


def pack_examples(examples: Sequence[SFTExample], row_length: int, pad_id: int) -> tuple[TokenBatch, TruncationCounts]:
    """All examples in as few rows of ``row_length`` tokens as best-fit decreasing finds: arrays of (rows, row_length).

    The longest example goes first, each into the fullest row that still holds it (the earliest of equals). Targets
    are the response tokens, end of sequence included. An example longer than a row is cut as ``fit`` says.
    """
    fitted = [fit(example, row_length) for example in examples]
    sizes = [len(example.prompt) + len(example.response) for example in fitted]
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for place in sorted(range(len(fitted)), key=lambda place: -sizes[place]):
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
            first_target = start + len(fitted[place].prompt)
            ids[row, start:end] = np.concatenate([fitted[place].prompt, fitted[place].response])
            positions[row, start:end] = np.arange(sizes[place])
            segments[row, start:end] = segment
            loss_mask[row, first_target:end] = True
            start = end
    counts = TruncationCounts(
        prompts=sum(len(a.prompt) > len(b.prompt) for a, b in zip(examples, fitted, strict=True)),
        responses=sum(len(a.response) > len(b.response) for a, b in zip(examples, fitted, strict=True)),
        total_prompts=len(fitted),
        total_responses=len(fitted),
    )
    return TokenBatch(ids=ids, positions=positions, segments=segments, loss_mask=loss_mask), counts


def fit(example: SFTExample, row_length: int) -> SFTExample:
    """The example in at most ``row_length`` tokens.

    The prompt keeps its last tokens: what the response leaves, and at least half of the row. The response keeps its
    first tokens, losing its end-of-sequence token with its end.
    """
    room = max(row_length - len(example.response), row_length // 2)
    prompt = example.prompt[-room:]
    return SFTExample(prompt, example.response[: row_length - len(prompt)])
