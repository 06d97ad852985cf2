"""What the utilities of a reward stage ask for: the best rewards of its lists, and how far apart types should lie."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.loader import thin
from rlhf_jax.diagnostics import wasserstein_1
from rlhf_jax.objectives.utilities import Utility
from rlhf_jax.theory.optimum import best_rewards_of_tiers

# The utilities of a stage, and which of them each prompt type has (any other type: number 0).
Table = tuple[Sequence[Utility], Mapping[str, int]]


@lru_cache(maxsize=4096)
def _best(utility: Utility, sizes: tuple[int, ...]) -> Float[np.ndarray, "n"] | None:
    if len(sizes) < 2:  # nothing is compared
        return None
    try:
        return best_rewards_of_tiers(utility, sizes, trained=True).rewards
    except (ValueError, ArithmeticError):  # a member of the user's own that has none, or none in float64
        return None


def best_of_lists(lists: Sequence[ListExample], table: Table, list_size: int) -> list[Float[np.ndarray, "_"] | None]:
    """The rewards in [0, 1] at the optimum of each list under its type's utility as trained, best response first.

    Of a longer list, those of the ``list_size`` responses that are trained on; None where there is no optimum,
    or where the order is not one of tiers.
    """
    return [
        None if example.edges is not None else _best(_utility(table, example.prompt_type), _tiers(example, list_size))
        for example in lists
    ]


def w1_between_types(
    lists: Sequence[ListExample], best: Sequence[Float[np.ndarray, "_"] | None]
) -> dict[tuple[str, str], float]:
    """Wasserstein-1 distance of the pooled best rewards of each pair of types, names in sorted order.

    Lists without best rewards, those of ties alone, are left out, and with them the types that have no others.
    """
    pooled: dict[str, list[np.ndarray]] = {}
    for example, own in zip(lists, best, strict=True):
        if own is not None and example.prompt_type:
            pooled.setdefault(example.prompt_type, []).append(own)
    known = {kind: np.concatenate(parts) for kind, parts in pooled.items()}
    return {(a, b): wasserstein_1(known[a], known[b]) for a, b in combinations(sorted(known), 2)}


def optimum_record(
    lists: Sequence[ListExample],
    best: Sequence[Float[np.ndarray, "_"] | None],
    table: Table,
    wanted: Table,
    apart: Mapping[tuple[str, str], float],
) -> dict[str, dict[str, Any]]:
    """The record of a stage by prompt type: see ``optimum/STAGE.json`` in ``docs/run_directory.md``."""
    record = {}
    for kind in sorted({example.prompt_type for example in lists}):
        own = [rewards for example, rewards in zip(lists, best, strict=True) if example.prompt_type == kind]
        same = own[0] is not None and all(rewards is not None and np.array_equal(rewards, own[0]) for rewards in own)
        law = _utility(table, kind).limit_law()
        record[kind] = {
            "utility": repr(_utility(table, kind)),
            "r": own[0].tolist() if own[0] is not None and same else None,
            "limit": dataclasses.asdict(law) if law else None,
            "wanted": repr(_utility(wanted, kind)),
            "apart": {a if b == kind else b: w1 for (a, b), w1 in apart.items() if kind in (a, b)},
        }
    return record


def _utility(table: Table, kind: str) -> Utility:
    utilities, index = table
    return utilities[index.get(kind, 0)]


def _tiers(example: ListExample, list_size: int) -> tuple[int, ...]:
    kept = [example.ranks[place] for place in thin(example.ranks, list_size)]
    return tuple(np.unique(kept, return_counts=True)[1].tolist())
