"""The embedded world's annotators: every kind of feedback on its lists, with mistakes of a known probability.

An annotator sees the true quality ("gold") of an answer and errs as a logistic choice does: of two answers he prefers
the first with probability sigma((gold_1 - gold_2) / noise). Noise is a temperature in units of gold; at 0 he is exact,
and between equals he tosses a coin. What he says is drawn from the record's own random stream: it depends on the
record's id, on the kind of feedback and on nothing else, so that every run reads the same feedback.
"""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import expit, softmax

from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.world_builder import WORLD_SEED

# Weight of a tie in Davidson's model, by which the world's annotators call two answers equal.
TIE_WEIGHT = 1.0
# Differences of gold from which on a preference is significant, clear or slight, and the margins said then.
MARGINS = ((0.75, 1.0), (0.5, 2 / 3), (0.25, 1 / 3))
# Annotators by name, and what each multiplies the noise by. One alone is exact to ``noise`` and has no name.
JUDGES = {"careful": 1.0, "hasty": 2.0, "careless": 4.0}


@dataclasses.dataclass(frozen=True)
class Annotators:
    """Who judges the world's lists: the ``kind`` of feedback they give, their ``noise`` (of ``scores`` the standard
    deviation; both in units of gold), and how many they are, 1 to 3; each record is judged by one of them.
    """

    kind: str
    noise: float = 0.0
    count: int = 1

    def assignment(self, record: str) -> tuple[str, str, np.random.Generator]:
        """(kind of feedback, annotator's name, random stream of what he says) of a record by its id."""
        rng = np.random.default_rng([WORLD_SEED, zlib.crc32(record.encode()), 1])
        judge, kind = rng.integers(self.count), rng.integers(len(GIVE))
        return tuple(GIVE)[kind] if self.kind == "mixed" else self.kind, self.names[judge], rng

    @property
    def names(self) -> tuple[str, ...]:
        """The names of those who judge."""
        return tuple(JUDGES)[: self.count] if self.count > 1 else ("",)

    def noise_of(self, annotator: str) -> float:
        """The noise of one of them by name."""
        return self.noise * JUDGES.get(annotator, 1.0)


def prefers(gap: Float[np.ndarray, "*S"] | float, noise: float) -> Float[np.ndarray, "*S"]:
    """Probability that the first of two answers is preferred, ``gap`` its gold less that of the second."""
    gap = np.asarray(gap, np.float64)
    return np.asarray(expit(gap / noise) if noise else np.heaviside(gap, 0.5))


def outcomes(gap: float, noise: float) -> Float[np.ndarray, "3"]:
    """Probabilities that the first of two answers is called better, worse, equal. Source: Davidson 1970."""
    if not noise:
        return np.array([gap > 0, gap < 0, gap == 0], np.float64)
    return softmax(np.array([gap / 2 / noise, -gap / 2 / noise, np.log(TIE_WEIGHT)]))


def give_feedback(record: Record, annotators: Annotators) -> Record:
    """What the record's annotator says of its responses; their ``score`` must be the gold, which is not handed on.

    ============  ========================================================================================
    ``lists``     the record itself
    ``pairs``     two of the responses, the preferred one first
    ``margins``   the same, with a margin in 1, 2/3, 1/3, 0 by the size of the difference in gold
    ``ties``      two of the responses, which may be called equal (Davidson's model)
    ``edges``     the responses in two piles, each put in order and never compared with the other; of the
                  order only neighbouring tiers are written down, equal answers are not compared
    ``labels``    each response good or bad: good with probability sigma((gold - 1/2) / noise)
    ``scores``    each response's gold plus normal noise, not clipped
    ============  ========================================================================================

    ``mixed`` draws one of all but the first for each record.
    """
    if annotators.kind == "lists":
        return record
    kind, annotator, rng = annotators.assignment(record.id)
    gold = np.array([response.score for response in record.responses], np.float64)
    told = GIVE[kind](record, gold, annotators.noise_of(annotator), rng)
    return dataclasses.replace(told, annotator=annotator)


def _pair(record: Record, gold: np.ndarray, noise: float, rng: np.random.Generator) -> Record:
    first, second = rng.choice(len(gold), 2, replace=False).tolist()
    if rng.random() >= prefers(gold[first] - gold[second], noise):
        first, second = second, first
    size = abs(gold[first] - gold[second])
    return dataclasses.replace(
        record,
        responses=(_said(record, first, rank=0), _said(record, second, rank=1)),
        margin=next((margin for least, margin in MARGINS if size >= least), 0.0),
    )


def _pair_alone(record: Record, gold: np.ndarray, noise: float, rng: np.random.Generator) -> Record:
    return dataclasses.replace(_pair(record, gold, noise, rng), margin=None)


def _tie(record: Record, gold: np.ndarray, noise: float, rng: np.random.Generator) -> Record:
    first, second = rng.choice(len(gold), 2, replace=False).tolist()
    better, worse, _ = outcomes(gold[first] - gold[second], noise)
    draw = rng.random()
    if better <= draw < better + worse:
        first, second = second, first
    rank = int(draw < better + worse)
    return dataclasses.replace(record, responses=(_said(record, first, rank=0), _said(record, second, rank=rank)))


def _edges(record: Record, gold: np.ndarray, noise: float, rng: np.random.Generator) -> Record:
    """Luce's choices: what the annotator sees is gold / noise + Gumbel, of which every pair is a logistic choice.

    Equal answers look equal. So two answers of a pile are compared if and only if their gold differs, whatever the
    order came out to be: which comparisons there are tells nothing of how they ended.
    """
    levels, level = np.unique(gold, return_inverse=True)
    seen = levels if not noise else levels / noise + rng.gumbel(size=len(levels))
    order = rng.permutation(len(gold))
    piles = np.split(order, [len(order) // 2]) if len(order) > 3 else [order]
    edges, rank = [], np.zeros(len(gold), int)
    for pile in piles:
        tiers = np.unique(-seen[level[pile]], return_inverse=True)[1]  # 0 looks best
        rank[pile] = tiers
        edges += [(int(pile[i]), int(pile[j])) for i, j in np.argwhere(tiers[:, None] + 1 == tiers[None, :])]
    responses = tuple(_said(record, place, rank=int(rank[place])) for place in range(len(gold)))
    return dataclasses.replace(record, responses=responses, edges=tuple(sorted(edges)))


def _labels(record: Record, gold: np.ndarray, noise: float, rng: np.random.Generator) -> Record:
    good = rng.random(len(gold)) < prefers(gold - 0.5, noise)
    return dataclasses.replace(
        record, responses=tuple(_said(record, place, label=float(good[place])) for place in range(len(gold)))
    )


def _scores(record: Record, gold: np.ndarray, noise: float, rng: np.random.Generator) -> Record:
    given = gold + noise * rng.standard_normal(len(gold))
    return dataclasses.replace(
        record, responses=tuple(_said(record, place, score=float(given[place])) for place in range(len(gold)))
    )


def _said(
    record: Record, place: int, *, rank: int | None = None, score: float | None = None, label: float | None = None
) -> Response:
    return dataclasses.replace(record.responses[place], rank=rank, score=score, label=label)


Give = Callable[[Record, np.ndarray, float, np.random.Generator], Record]
GIVE: dict[str, Give] = {
    "pairs": _pair_alone,
    "margins": _pair,
    "ties": _tie,
    "edges": _edges,
    "labels": _labels,
    "scores": _scores,
}
