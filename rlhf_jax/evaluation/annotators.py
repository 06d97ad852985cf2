"""How far annotators agree who judged the same responses."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.records import Record
from rlhf_jax.diagnostics.agreement import kendall_w, krippendorff_alpha


@dataclasses.dataclass(frozen=True)
class Agreement:
    """``alpha``: Krippendorff's, nominal, of all comparisons of two responses. ``w``: mean Kendall's W over the sets of
    three or more responses that two or more annotators ranked in full, of which there are ``rankings``. None where
    nobody judged the same. ``with_others``: of each annotator the comparisons that others made too, and the mean share
    of those others who said the same.
    """

    alpha: float | None
    w: float | None
    rankings: int
    with_others: dict[str, tuple[int, float]]


def measure_agreement(records: Sequence[Record]) -> Agreement:
    """Agreement of ranked records. Comparisons of the same two answers to one prompt are set side by side, whatever
    lists they come from; rankings only where they are of the same set. A tie is a judgement of its own. Of two
    judgements of one annotator about the same the last counts.
    """
    sets: dict[tuple[str, tuple[str, ...]], dict[str, Record]] = defaultdict(dict)
    said: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for record in records:
        texts = tuple(sorted(response.text for response in record.responses))
        sets[record.prompt, texts][record.annotator] = record
        order = _comparisons(record, texts)
        for i, j in combinations(range(len(texts)), 2):
            if not np.isnan(order[i, j]):
                said[record.prompt, texts[i], texts[j]][record.annotator] = float(order[i, j])
    annotators = sorted({record.annotator for record in records})
    columns = [[judged.get(who, np.nan) for who in annotators] for judged in said.values()]
    concordances = []
    for (_, texts), judged in sets.items():
        full = [_ranks(record, texts) for record in judged.values() if record.edges is None]
        if len(texts) > 2 and len(full) > 1 and (w := kendall_w(np.array(full))) is not None:
            concordances.append(w)
    values = np.array(columns, float).reshape(-1, len(annotators)).T
    return Agreement(
        alpha=krippendorff_alpha(values),
        w=float(np.mean(concordances)) if concordances else None,
        rankings=len(concordances),
        with_others={who: _with_others(values, place) for place, who in enumerate(annotators)},
    )


def _ranks(record: Record, texts: Sequence[str]) -> list[float]:
    ranks = {response.text: float(response.rank or 0) for response in record.responses}
    return [ranks[text] for text in texts]


def _comparisons(record: Record, texts: Sequence[str]) -> Float[np.ndarray, "n n"]:
    """At (i, j): 1 where text i was judged better, 0 worse, 1/2 equal, NaN not compared."""
    if record.edges is None:
        ranks = np.array(_ranks(record, texts))
        return (np.sign(ranks[None, :] - ranks[:, None]) + 1) / 2
    place = [texts.index(response.text) for response in record.responses]
    found = np.full((len(texts), len(texts)), np.nan)
    for better, worse in record.edges:
        found[place[better], place[worse]], found[place[worse], place[better]] = 1.0, 0.0
    return found


def _with_others(values: Float[np.ndarray, "annotators units"], place: int) -> tuple[int, float]:
    """Units that others judged too, and the mean share of these others who said the same."""
    own, others = values[place], np.delete(values, place, axis=0)
    shared = ~np.isnan(own) & np.any(~np.isnan(others), axis=0)
    if not shared.any():
        return 0, np.nan
    same = np.where(np.isnan(others), np.nan, others == own)[:, shared]
    return int(shared.sum()), float(np.nanmean(same, axis=0).mean())
