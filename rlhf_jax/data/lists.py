"""How wide batches of lists are: no wider than they have to be, in few enough sizes that each is compiled once."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from rlhf_jax.data.examples import ListExample
from rlhf_jax.types import ListTokens

Lists = TypeVar("Lists", bound=ListTokens)
LEAST = 16  # tokens; narrower batches than that are not worth a program of their own
SLOTS = 8  # how many sizes there are at most, of slots; of prompts and of responses there are two


@dataclasses.dataclass(frozen=True)
class ListSizes:
    """The sizes that batches of lists may have, ascending: tokens of prompts (P) and of responses (R).

    There are ``columns`` (K) responses to a list. With ``groups`` not 0, which must divide the lists of a batch, those
    of each of so many equal parts of them share their room wherever that takes less of it (see ``ListTokens``): a part
    never lies on two devices. 0: each list has K slots of its own.
    """

    prompts: tuple[int, ...]
    responses: tuple[int, ...]
    columns: int
    groups: int = 0


def sizes_of(lists: Sequence[ListExample], list_size: int, groups: int = 0) -> ListSizes:
    """The sizes for batches of at most ``list_size`` responses of each of these lists."""
    return ListSizes(
        prompts=widths(max((len(one.prompt) for one in lists), default=1)),
        responses=widths(max((len(ids) for one in lists for ids in one.responses), default=1)),
        columns=min(list_size, max((len(one.responses) for one in lists), default=1)),
        groups=groups,
    )


def widths(most: int) -> tuple[int, ...]:
    """``most`` tokens, and before that three quarters of them, in multiples of ``LEAST``, if that is less.

    The longest of a batch is near the longest of all: sizes in between would be met so often and save so little that
    their programs do not pay (docs/LOG.md, 2026-11-30).
    """
    less = -(-3 * most // (4 * LEAST)) * LEAST
    return (less, most) if less < most else (most,)


def ladder(most: int, steps: int) -> tuple[int, ...]:
    """Sizes up to ``most``, at most ``steps`` of them and evenly spaced."""
    step = -(-most // steps)
    return (*range(step, most, step), most)


def fitting(sizes: Sequence[int], needed: int) -> int:
    """The smallest of the sizes that is enough."""
    return next(size for size in sizes if size >= needed)


def fitted(batch: Lists, sizes: ListSizes) -> Lists:
    """The batch, made at its widest, as narrow as its own tokens allow; its lists share their room if that saves any.

    This depends on the tokens of the whole batch and on nothing else, so that all processes agree on it.
    """
    prompt = fitting(sizes.prompts, int(batch.prompt_mask.sum(axis=1).max()))
    length = fitting(sizes.responses, int(batch.mask.sum(axis=2).max()))
    batch = dataclasses.replace(
        batch,
        prompt_ids=batch.prompt_ids[:, -prompt:],
        prompt_mask=batch.prompt_mask[:, -prompt:],
        ids=batch.ids[:, :, :length],
        mask=batch.mask[:, :, :length],
    )
    return _sharing(batch, sizes.groups) if sizes.groups else batch


def groups_of(
    lists: Sequence[ListExample], sizes: ListSizes, slots: int, groups: int, pad_id: int
) -> Iterator[tuple[ListTokens, int]]:
    """(batch, how many slots of it are filled): all responses of all lists in order, slot after slot.

    A group has S = ``slots``, or what all of them take in so many ``groups``. A list that goes on in the next group has
    its prompt there too.
    """
    whole = [(place, ids) for place, one in enumerate(lists) for ids in one.responses]
    for start in range(0, len(whole), slots * groups):
        taken = whole[start : start + slots * groups]
        own = [taken[first : first + slots] for first in range(0, slots * groups, slots)]
        prompts = [sorted({place for place, _ in group}) for group in own]
        most = fitting(ladder(slots, SLOTS), max(1, *map(len, prompts)))
        shape = (groups * most, sizes.prompts[-1])
        prompt_ids, prompt_mask = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
        ids = np.full((groups, slots, sizes.responses[-1]), pad_id, np.int32)
        mask, owner = np.zeros(ids.shape, bool), np.zeros((groups, slots), np.int32)
        for number, (group, places) in enumerate(zip(own, prompts, strict=True)):
            for row, place in enumerate(places, start=number * most):
                tokens = lists[place].prompt
                prompt_ids[row, shape[1] - len(tokens) :], prompt_mask[row, shape[1] - len(tokens) :] = tokens, True
            for slot, (place, tokens) in enumerate(group):
                ids[number, slot, : len(tokens)], mask[number, slot, : len(tokens)] = tokens, True
                owner[number, slot] = places.index(place)
        batch = ListTokens(prompt_ids, prompt_mask, ids, mask, owner=owner)
        yield fitted(batch, dataclasses.replace(sizes, groups=0)), len(taken)


def _sharing(batch: Lists, groups: int) -> Lists:
    rows, columns, length = batch.ids.shape
    each = rows // groups * columns
    exists = batch.mask.any(axis=2).reshape(groups, each)
    slots = fitting(ladder(each, SLOTS), int(exists.sum(axis=1).max()))
    if slots == each:
        return batch
    slot = np.where(exists, np.cumsum(exists, axis=1) - 1, -1)
    group, place = np.nonzero(exists)
    ids = np.full((groups, slots, length), batch.ids[~batch.mask][0], np.int32)
    mask, owner = np.zeros(ids.shape, bool), np.zeros((groups, slots), np.int32)
    there = group, slot[group, place]
    ids[there], mask[there] = (leaf.reshape(groups, each, length)[group, place] for leaf in (batch.ids, batch.mask))
    owner[there] = place // columns
    return dataclasses.replace(
        batch,
        ids=ids,
        mask=mask,
        slot=slot.reshape(rows, columns).astype(np.int32),
        owner=owner if rows > groups else None,  # a prompt to itself
    )
