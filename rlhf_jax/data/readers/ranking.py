"""From what was said of several responses to their ranks."""

import dataclasses
import graphlib
import math
from collections.abc import Mapping, Sequence

from rlhf_jax.data.readers.checks import BadRow
from rlhf_jax.data.records import Response

Edges = tuple[tuple[int, int], ...]


def tiers(scores: Sequence[float], tie_margin: float) -> list[int]:
    """Dense ranks, 0 for the highest score.

    From the top down, a score joins the current tier if it is less than ``tie_margin`` below the tier's best score,
    or equal to it; otherwise it opens the next tier. So no tier is wider than the margin.
    """
    ranks = [0] * len(scores)
    rank, best = -1, math.inf
    for place in sorted(range(len(scores)), key=lambda place: -scores[place]):
        if scores[place] != best and not best - scores[place] < tie_margin:
            rank, best = rank + 1, scores[place]
        ranks[place] = rank
    return ranks


def distinct(responses: Sequence[Response]) -> list[Response]:
    """Of identical texts the first."""
    kept: dict[str, Response] = {}
    for response in responses:
        kept.setdefault(response.text, response)
    return list(kept.values())


def ranked(responses: Sequence[Response], tie_margin: float = 0.0) -> tuple[Response, ...]:
    """Best first, with dense ranks: by ``rank`` if all have one, else ``score`` (see ``tiers``), else ``label``, else
    as listed. A field that only some responses have is an error."""
    if _given(responses, "rank"):
        ranks = tiers([-float(response.rank or 0) for response in responses], 0.0)
    elif _given(responses, "score"):
        ranks = tiers([response.score or 0.0 for response in responses], tie_margin)
    elif _given(responses, "label"):
        ranks = tiers([response.label or 0.0 for response in responses], 0.0)
    else:
        ranks = list(range(len(responses)))
    placed = [dataclasses.replace(response, rank=rank) for response, rank in zip(responses, ranks, strict=True)]
    return tuple(sorted(placed, key=lambda response: response.rank or 0))


def ordered(responses: Sequence[Response], edges: Edges, field: str = "edges") -> tuple[tuple[Response, ...], Edges]:
    """Responses and the comparisons (better, worse) of them, sorted by ``rank``: the length of the longest chain of
    better responses. Raises BadRow on a cycle."""
    above: Mapping[int, set[int]] = {place: set() for place in range(len(responses))}
    for better, worse in edges:
        above[worse].add(better)
    ranks: dict[int, int] = {}
    try:
        for place in graphlib.TopologicalSorter(above).static_order():
            ranks[place] = max((ranks[better] + 1 for better in above[place]), default=0)
    except graphlib.CycleError as error:
        cycle = " is better than ".join(str(place) for place in error.args[1])
        raise BadRow(f"{field}: cyclic, {cycle}") from None
    order = sorted(ranks, key=lambda place: (ranks[place], place))
    to = {place: new for new, place in enumerate(order)}
    placed = tuple(dataclasses.replace(responses[place], rank=ranks[place]) for place in order)
    return placed, tuple(sorted((to[better], to[worse]) for better, worse in edges))


def _given(responses: Sequence[Response], field: str) -> bool:
    """Whether all responses carry the field; a list where only some do has no order."""
    missing = [getattr(response, field) is None for response in responses]
    if any(missing) and not all(missing):
        raise BadRow(f"responses: {field} given for some responses only")
    return not any(missing)
