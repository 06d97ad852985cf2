"""Lists of any length under a reward model: each response is scored once, whatever list it stands in."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.data.examples import ListExample, list_examples
from rlhf_jax.data.perturb import Perturbation
from rlhf_jax.data.records import Record
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.diagnostics.pairs import pairs_of_lists
from rlhf_jax.diagnostics.robustness import Robustness, robustness

# Lists to the rewards of all their responses, in order.
ScoreLists = Callable[[Sequence[ListExample]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ScoredLists:
    """Rewards of N lists of up to K responses, in the order of their records, and what the annotators said of them.

    ``better`` as in ``diagnostics.pairs``; ``lengths`` in tokens; ``gold`` NaN where the response has no score.
    """

    rewards: Float[np.ndarray, "N K"]
    ranks: Int[np.ndarray, "N K"]
    mask: Bool[np.ndarray, "N K"]
    better: Bool[np.ndarray, "N K K"]
    lengths: Float[np.ndarray, "N K"]
    gold: Float[np.ndarray, "N K"]
    types: list[str]


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a reward model reads texts: its tokenizer, and the tokens it takes of a prompt and of a response."""

    tokenizer: Tokenizer
    max_prompt: int
    max_response: int


def comparable(records: Sequence[Record]) -> list[Record]:
    """The records in which a response was judged better than another."""
    return [
        record
        for record in records
        if (bool(record.edges) if record.edges is not None else len({one.rank for one in record.responses}) > 1)
        and all(one.rank is not None for one in record.responses)
    ]


def score_records(score: ScoreLists, reader: Reader, records: Sequence[Record]) -> ScoredLists:
    """Score every response of every record (at least one record, each with ranks)."""
    lists, _ = list_examples(records, reader.tokenizer, reader.max_prompt, reader.max_response)
    shape = (len(lists), max(len(example.responses) for example in lists))
    rewards, lengths, gold = np.zeros(shape), np.full(shape, np.nan), np.full(shape, np.nan)
    ranks, mask = np.zeros(shape, int), np.zeros(shape, bool)
    better = np.zeros((*shape, shape[1]), bool)
    for row, example in enumerate(lists):
        own = slice(len(example.responses))
        ranks[row, own], mask[row, own] = example.ranks, True
        better[row, own, own] = example.comparisons()[0]
        lengths[row, own] = [len(response) for response in example.responses]
        gold[row, own] = [np.nan if value is None else value for value in example.scores]
    rewards[mask] = score(lists)
    return ScoredLists(rewards, ranks, mask, better, lengths, gold, [example.prompt_type for example in lists])


def measure_robustness(
    score: ScoreLists,
    reader: Reader,
    records: Sequence[Record],
    before: ScoredLists,
    perturbations: Mapping[str, Perturbation],
) -> dict[str, Robustness]:
    """Score the records again after each change of all their responses. ``before`` is what ``score_records`` gave.

    An order turns round only where it was judged, and where gold rewards are known, only where they differ: the forced
    order of equals may rest on what the change alters, such as length.
    """
    above, below = before.gold[:, :, None], before.gold[:, None, :]
    better = before.better & ~(above == below)
    pairs = pairs_of_lists(better, before.ranks, before.mask)
    found = {}
    for name, change in perturbations.items():
        altered = [
            dataclasses.replace(
                record, responses=tuple(dataclasses.replace(one, text=change(one.text)) for one in record.responses)
            )
            for record in records
        ]
        changed = np.zeros(before.mask.shape, bool)
        changed[before.mask] = [
            old.text != new.text
            for record, other in zip(records, altered, strict=True)
            for old, new in zip(record.responses, other.responses, strict=True)
        ]
        after = score_records(score, reader, altered)
        found[name] = robustness(before.rewards, after.rewards, before.mask, pairs, changed)
    return found
