"""Batches of static shape from token examples: endless, shuffled and resumable for training, one pass to evaluate.

Training streams are grain iterators: ``next``, ``get_state`` and ``set_state``. The stream depends on the seed alone,
every pass over the data has its own order, and batch k is the same however it was reached.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import grain
import numpy as np

from rlhf_jax.data.examples import ListExample, PromptRow
from rlhf_jax.data.lists import ListSizes, fitted
from rlhf_jax.data.segments import SegmentExample
from rlhf_jax.types import PromptBatch, RankBatch, SegmentBatch, TokenBatch

Batch = TypeVar("Batch")
# In a batch of places in a split, the place of a row that is only padding.
PADDING = -1
# Passes that are endless enough: of a stream without an end grain cannot make batches of one.
PASSES = 2**31


def sft_batches(rows: TokenBatch, batch_size: int, seed: int) -> grain.DatasetIterator:
    """Endless TokenBatch of ``batch_size`` packed rows, from all the packed rows."""
    return stream(len(rows.ids), batch_size, seed, lambda places: _token_batch(rows, places))


def sft_eval_batches(rows: TokenBatch, batch_size: int) -> Iterator[TokenBatch]:
    """All packed rows once, in order; the last batch is filled up with rows without segments and targets."""
    return one_pass(len(rows.ids), batch_size, lambda places: _token_batch(rows, places))


def rank_batches(
    lists: Sequence[ListExample],
    utility_index: Mapping[str, int],
    batch_size: int,
    sizes: ListSizes,
    seed: int,
    pad_id: int,
    annotator_weights: Mapping[str, float] = MappingProxyType({}),
) -> grain.DatasetIterator:
    """Endless RankBatch of ``batch_size`` lists, of these sizes.

    ``utility_index`` maps prompt types to utilities; types that it does not name get 0. Shorter lists are padded;
    of longer ones, responses evenly spaced from best to worst are kept. Annotators without a weight have 1.
    """
    make = rank_maker(lists, utility_index, sizes, pad_id, annotator_weights)
    return stream(len(lists), batch_size, seed, make)


def rank_eval_batches(
    lists: Sequence[ListExample],
    utility_index: Mapping[str, int],
    batch_size: int,
    sizes: ListSizes,
    pad_id: int,
    annotator_weights: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[RankBatch]:
    """All lists once, in order; the last batch is filled up with lists without responses."""
    make = rank_maker(lists, utility_index, sizes, pad_id, annotator_weights)
    return one_pass(len(lists), batch_size, make)


def segment_batches(
    examples: Sequence[SegmentExample], batch_size: int, length: int, seed: int, pad_id: int
) -> grain.DatasetIterator:
    """Endless SegmentBatch of ``batch_size`` responses, T = ``length`` (max_prompt + max_response)."""
    return stream(len(examples), batch_size, seed, _segment_maker(examples, length, pad_id))


def segment_eval_batches(
    examples: Sequence[SegmentExample], batch_size: int, length: int, pad_id: int
) -> Iterator[SegmentBatch]:
    """All responses once, in order; the last batch is filled up with empty rows without labels."""
    return one_pass(len(examples), batch_size, _segment_maker(examples, length, pad_id))


def prompt_batches(
    prompts: Sequence[PromptRow], batch_size: int, repeats: int, max_prompt: int, seed: int, pad_id: int
) -> grain.DatasetIterator:
    """Endless PromptBatch of ``batch_size`` prompts, each in ``repeats`` consecutive rows: B = batch_size * repeats."""
    return stream(len(prompts), batch_size, seed, _prompt_maker(prompts, repeats, max_prompt, pad_id))


class Together:
    """Several endless streams drawn from in step: a batch is a tuple of theirs, the place that of each by its name."""

    def __init__(self, **streams: grain.DatasetIterator) -> None:
        self._streams = streams

    def __next__(self) -> tuple[Any, ...]:
        return tuple(next(stream) for stream in self._streams.values())

    def get_state(self) -> dict[str, Any]:
        return {name: stream.get_state() for name, stream in self._streams.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, stream in self._streams.items():
            stream.set_state(state[name])


def prompt_eval_batches(
    prompts: Sequence[PromptRow], batch_size: int, max_prompt: int, pad_id: int
) -> Iterator[PromptBatch]:
    """All prompts once, in order; the last batch is filled up with empty prompts of index -1."""
    return one_pass(len(prompts), batch_size, _prompt_maker(prompts, 1, max_prompt, pad_id))


def thin(ranks: Sequence[int], size: int) -> list[int]:
    """Places of at most ``size`` responses, best to worst, evenly spaced in that order, both ends included."""
    order = sorted(range(len(ranks)), key=lambda place: ranks[place])
    if len(order) <= size:
        return order
    return [order[int(place)] for place in np.round(np.linspace(0, len(order) - 1, size))]


def stream(count: int, batch_size: int, seed: int, make: Callable[[np.ndarray], Batch]) -> grain.DatasetIterator:
    """Endless batches of ``make(places)``, a new shuffle of the ``count`` places on every pass."""
    if not count:
        raise ValueError("no examples to make batches of")
    places = grain.MapDataset.range(count).seed(seed).shuffle().repeat(PASSES).batch(batch_size)
    # The batches are cheap to make and two cores are few: no read-ahead threads.
    return iter(places.map(make).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))


def one_pass(count: int, batch_size: int, make: Callable[[np.ndarray], Batch]) -> Iterator[Batch]:
    """``make(places)`` of all places in order, the last batch filled up with ``PADDING``."""
    for start in range(0, count, batch_size):
        places = np.arange(start, start + batch_size)
        yield make(np.where(places < count, places, PADDING))


def _token_batch(rows: TokenBatch, places: np.ndarray) -> TokenBatch:
    real = (places != PADDING)[:, None]
    return TokenBatch(
        ids=rows.ids[places],
        positions=rows.positions[places],
        segments=rows.segments[places] * real,
        loss_mask=rows.loss_mask[places] & real,
        index=places.astype(np.int32),
    )


def rank_maker(
    lists: Sequence[ListExample],
    utility_index: Mapping[str, int],
    sizes: ListSizes,
    pad_id: int,
    annotator_weights: Mapping[str, float],
) -> Callable[[np.ndarray], RankBatch]:
    """From places of ``lists`` to their batch: what ``rank_batches`` and ``rank_eval_batches`` are made with."""
    make = widest_maker(lists, utility_index, sizes, pad_id, annotator_weights)
    return lambda places: fitted(make(places), sizes)


def widest_maker(
    lists: Sequence[ListExample],
    utility_index: Mapping[str, int],
    sizes: ListSizes,
    pad_id: int,
    annotator_weights: Mapping[str, float],
) -> Callable[[np.ndarray], RankBatch]:
    """``rank_maker`` of batches that have the largest of the sizes."""
    list_size, widest = sizes.columns, sizes.prompts[-1]

    def make(places: np.ndarray) -> RankBatch:
        shape = (len(places), list_size, sizes.responses[-1])
        prompt_ids = np.full((len(places), widest), pad_id, np.int32)
        prompt_mask = np.zeros(prompt_ids.shape, bool)
        ids, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
        ranks, exists = np.zeros(shape[:2], np.int32), np.zeros(shape[:2], bool)
        utility = np.zeros(len(places), np.int32)
        better, tied = (np.zeros((*shape[:2], list_size), bool) for _ in range(2))
        margin, weight = np.zeros(len(places), np.float32), np.ones(len(places), np.float32)
        index = np.full(len(places), PADDING, np.int32)
        labels, scores = (np.full(shape[:2], np.nan, np.float32) for _ in range(2))
        for row, place in enumerate(places):
            if place == PADDING:
                continue
            example = lists[place]
            kept = thin(example.ranks, list_size)
            prompt_ids[row, widest - len(example.prompt) :] = example.prompt
            prompt_mask[row, widest - len(example.prompt) :] = True
            for column, response in enumerate(kept):
                tokens = example.responses[response]
                ids[row, column, : len(tokens)] = tokens
                mask[row, column, : len(tokens)] = True
            dense = np.unique([example.ranks[response] for response in kept], return_inverse=True)[1]
            ranks[row, : len(kept)] = dense
            exists[row, : len(kept)] = True
            utility[row] = utility_index.get(example.prompt_type, 0)
            pairs = np.ix_(kept, kept)
            own = slice(len(kept))
            better[row, own, own], tied[row, own, own] = (judged[pairs] for judged in example.comparisons())
            margin[row] = example.margin
            index[row] = example.index
            weight[row] = annotator_weights.get(example.annotator, 1.0)
            for found, verdicts in ((labels, example.labels), (scores, example.scores)):
                if verdicts:
                    found[row, own] = [np.nan if verdicts[place] is None else verdicts[place] for place in kept]
        return RankBatch(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            ids=ids,
            mask=mask,
            ranks=ranks,
            response_mask=exists,
            utility=utility,
            better=better,
            tied=tied,
            margin=margin,
            weight=weight,
            labels=labels,
            scores=scores,
            index=index,
        )

    return make


def _segment_maker(
    examples: Sequence[SegmentExample], length: int, pad_id: int
) -> Callable[[np.ndarray], SegmentBatch]:
    aspects = examples[0].labels.shape[1] if examples else 0

    def make(places: np.ndarray) -> SegmentBatch:
        shape = (len(places), length)
        ids, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
        labels = np.full((*shape, aspects), np.nan, np.float32)
        for row, place in enumerate(places):
            if place == PADDING:
                continue
            example = examples[place]
            begin = len(example.prompt)
            end = begin + len(example.response)
            ids[row, :end] = np.concatenate([example.prompt, example.response])
            mask[row, :end] = True
            labels[row, begin:end] = example.labels
        return SegmentBatch(ids=ids, mask=mask, labels=labels, index=places.astype(np.int32))

    return make


def _prompt_maker(
    prompts: Sequence[PromptRow], repeats: int, max_prompt: int, pad_id: int
) -> Callable[[np.ndarray], PromptBatch]:
    def make(places: np.ndarray) -> PromptBatch:
        places = np.repeat(places, repeats)
        shape = (len(places), max_prompt)
        ids, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
        index = np.full(len(places), PADDING, np.int32)
        for row, place in enumerate(places):
            if place == PADDING:
                continue
            tokens = prompts[place].ids
            ids[row, max_prompt - len(tokens) :] = tokens
            mask[row, max_prompt - len(tokens) :] = True
            index[row] = prompts[place].index
        return PromptBatch(ids=ids, mask=mask, index=index, row=np.arange(len(places), dtype=np.int32))

    return make
