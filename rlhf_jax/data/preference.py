"""Batches for direct preference optimisation: ranked lists, and what the reference policy makes of the responses."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import grain
import numpy as np
from jaxtyping import Float

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import ListSizes, fitted
from rlhf_jax.data.loader import PADDING, one_pass, stream, widest_maker
from rlhf_jax.types import PreferenceBatch, RankBatch


@dataclasses.dataclass(frozen=True)
class PreferenceShape:
    """The sizes of lists, and what fills them up.

    With ``mismatched`` there is one more column, a response to another prompt, as KTO wants.
    """

    sizes: ListSizes
    pad_id: int
    mismatched: bool = False

    @property
    def columns(self) -> int:
        return self.sizes.columns + self.mismatched


def preference_batches(
    lists: Sequence[ListExample],
    shape: PreferenceShape,
    batch_size: int,
    seed: int,
    reference: Float[np.ndarray, "L K"] | None = None,
    annotator_weights: Mapping[str, float] = MappingProxyType({}),
) -> grain.DatasetIterator:
    """Endless PreferenceBatch of ``batch_size`` lists, in the order that the reward stage would see them in.

    ``reference`` holds the summed log-probabilities of list after list, column after column; None: all 0.
    """
    return stream(len(lists), batch_size, seed, preference_maker(lists, shape, reference, annotator_weights))


def preference_eval_batches(
    lists: Sequence[ListExample],
    shape: PreferenceShape,
    batch_size: int,
    reference: Float[np.ndarray, "L K"] | None = None,
    annotator_weights: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[PreferenceBatch]:
    """All lists once, in order; the last batch is filled up with lists without responses."""
    return one_pass(len(lists), batch_size, preference_maker(lists, shape, reference, annotator_weights))


def preference_maker(
    lists: Sequence[ListExample],
    shape: PreferenceShape,
    reference: Float[np.ndarray, "L K"] | None,
    annotator_weights: Mapping[str, float],
) -> Callable[[np.ndarray], PreferenceBatch]:
    """From places of ``lists`` to their batch."""
    ranked = widest_maker(lists, {}, shape.sizes, shape.pad_id, annotator_weights)
    others = _others(lists) if shape.mismatched else ()

    def make(places: np.ndarray) -> PreferenceBatch:
        batch = ranked(places)
        if shape.mismatched:
            batch = _with_column(batch, [_mismatched(lists, others, int(place)) for place in places], shape.pad_id)
        known = np.zeros((len(places), shape.columns), np.float32)
        if reference is not None:
            real = places != PADDING
            known[real] = reference[places[real]]
        return PreferenceBatch(lists=fitted(batch, shape.sizes), ref_logprobs=known)

    return make


def _others(lists: Sequence[ListExample]) -> list[int]:
    """For each list the next one, going round, that has another prompt; itself where there is none."""
    others = []
    for place, example in enumerate(lists):
        after = ((place + step) % len(lists) for step in range(1, len(lists)))
        others.append(next((one for one in after if not np.array_equal(lists[one].prompt, example.prompt)), place))
    return others


def _mismatched(lists: Sequence[ListExample], others: Sequence[int], place: int) -> np.ndarray:
    """The tokens of a response to another prompt than that at ``place``; none of padding."""
    if place == PADDING:
        return np.zeros(0, np.int32)
    responses = lists[others[place]].responses
    return responses[place % len(responses)]


def _with_column(batch: RankBatch, tokens: Sequence[np.ndarray], pad_id: int) -> RankBatch:
    """One more response in each list, which nobody judged."""
    rows, _, length = batch.ids.shape
    ids, mask = np.full((rows, 1, length), pad_id, np.int32), np.zeros((rows, 1, length), bool)
    for row, own in enumerate(tokens):
        ids[row, 0, : len(own)] = own
        mask[row, 0, : len(own)] = True

    def wider(leaf: np.ndarray, fill: Any, axes: tuple[int, ...]) -> np.ndarray:
        return np.pad(leaf, [(0, int(axis in axes)) for axis in range(leaf.ndim)], constant_values=fill)

    return dataclasses.replace(
        batch,
        ids=np.concatenate([batch.ids, ids], axis=1),
        mask=np.concatenate([batch.mask, mask], axis=1),
        ranks=wider(batch.ranks, 0, (1,)),
        response_mask=wider(batch.response_mask, False, (1,)),
        better=wider(batch.better, False, (1, 2)),
        tied=wider(batch.tied, False, (1, 2)),
        labels=wider(batch.labels, np.nan, (1,)),
        scores=wider(batch.scores, np.nan, (1,)),
    )
