"""Natural-language feedback as training data: critiques as tokens beside ranked lists, refinements as demonstrations
and pairs.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import grain
import numpy as np

from rlhf_jax.data.examples import ListExample, encode_response
from rlhf_jax.data.lists import ListSizes
from rlhf_jax.data.loader import PADDING, one_pass, rank_maker, stream, thin
from rlhf_jax.data.records import Prompt, Record, Response, asked
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.types import CritiqueBatch, RankBatch


@dataclasses.dataclass(frozen=True)
class CritiqueExample:
    """A ranked list and what was said of its responses.

    ``context`` is the list whose responses end with the separator: what a critique is written after. ``critiques`` are
    token ids, end of sequence included if it ended, in the order of the responses; None where nothing was said.
    """

    context: ListExample
    critiques: tuple[np.ndarray | None, ...]


def critique_examples(
    records: Sequence[Record], lists: Sequence[ListExample], tokenizer: Tokenizer, separator: str, max_critique: int
) -> tuple[list[CritiqueExample], int]:
    """(examples, how many critiques were cut to ``max_critique`` tokens) of ``lists``, made of these ``records``.

    Raises ValueError for a separator without tokens: the reward of a response could not be told from the end of it.
    """
    between = np.asarray(tokenizer.encode(separator), np.int32)
    if not between.size:
        raise ValueError(f"separator {separator!r} has no tokens")
    examples, cut = [], 0
    for example in lists:
        critiques: list[np.ndarray | None] = []
        for response in records[example.index].responses:
            ids, was_cut = encode_response(tokenizer, response.critique, max_critique)
            critiques.append(ids if response.critique.strip() else None)
            cut += was_cut
        responses = tuple(np.concatenate([ids, between]) for ids in example.responses)
        examples.append(CritiqueExample(dataclasses.replace(example, responses=responses), tuple(critiques)))
    return examples, cut


def critique_batches(
    examples: Sequence[CritiqueExample],
    utility_index: Mapping[str, int],
    batch_size: int,
    sizes: ListSizes,
    max_critique: int,
    seed: int,
    pad_id: int,
    annotator_weights: Mapping[str, float] = MappingProxyType({}),
) -> grain.DatasetIterator:
    """Endless CritiqueBatch of ``batch_size`` lists of these sizes (the separator is part of a response), without
    groups; C = ``max_critique``. The rest as in ``loader.rank_batches``.
    """
    maker = _Maker(examples, utility_index, sizes, max_critique, pad_id, annotator_weights)
    return stream(len(examples), batch_size, seed, maker)


def critique_eval_batches(
    examples: Sequence[CritiqueExample],
    utility_index: Mapping[str, int],
    batch_size: int,
    sizes: ListSizes,
    max_critique: int,
    pad_id: int,
    annotator_weights: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[CritiqueBatch]:
    """All lists once, in order; the last batch is filled up with lists without responses."""
    maker = _Maker(examples, utility_index, sizes, max_critique, pad_id, annotator_weights)
    return one_pass(len(examples), batch_size, maker)


class _Maker:
    """Places of lists to a CritiqueBatch."""

    def __init__(
        self,
        examples: Sequence[CritiqueExample],
        utility_index: Mapping[str, int],
        sizes: ListSizes,
        max_critique: int,
        pad_id: int,
        annotator_weights: Mapping[str, float],
    ) -> None:
        self._examples = examples
        self._shape = (sizes.columns, max_critique)
        self._pad_id = pad_id
        contexts = [example.context for example in examples]
        self._lists = rank_maker(contexts, utility_index, sizes, pad_id, annotator_weights)

    def __call__(self, places: np.ndarray) -> CritiqueBatch:
        lists: RankBatch = self._lists(places)
        shape = (len(places), *self._shape)
        ids, mask = np.full(shape, self._pad_id, np.int32), np.zeros(shape, bool)
        for row, place in enumerate(places):
            if place == PADDING:
                continue
            example = self._examples[place]
            for column, response in enumerate(thin(example.context.ranks, self._shape[0])):
                critique = example.critiques[response]
                if critique is not None:
                    ids[row, column, : len(critique)] = critique
                    mask[row, column, : len(critique)] = True
        return CritiqueBatch(lists=lists, ids=ids, mask=mask)


def refinement_demonstrations(records: Sequence[Record], *, turns: bool = False) -> list[tuple[Prompt, str]]:
    """(prompt, refined response) of every response that was mended, in order, repeated pairs left out; ``turns`` as in
    ``readers.sft_pairs``.

    Source: Scheurer et al. 2023 (imitation learning from language feedback, arXiv 2303.16755).
    """
    pairs = [(asked(record, turns=turns), response.refined) for record in records for response in _mended(record)]
    return list(dict.fromkeys(pairs))


def refinement_pairs(records: Sequence[Record]) -> list[Record]:
    """A list of two for every response that was mended: its refined text above itself, with what was said of it.

    The pair keeps prompt, type, turns and annotator; its id is that of the record, "/refined" and the place of the
    response. Scores and labels are of the original alone and left out, or the pair would be trained on twice.
    """
    return [
        dataclasses.replace(
            record,
            id=f"{record.id}/refined{record.responses.index(response)}",
            responses=(
                Response(response.refined, rank=0, source=response.source),
                Response(response.text, rank=1, source=response.source, critique=response.critique),
            ),
            margin=None,
            edges=None,
        )
        for record in records
        for response in _mended(record)
    ]


def _mended(record: Record) -> list[Response]:
    return [response for response in record.responses if response.refined and response.refined != response.text]
