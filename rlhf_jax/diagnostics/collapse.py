"""Reward collapse: do the rewards of different prompt types follow one distribution, where they should not?

Song, Cai, Lee and Su (2023, arXiv 2305.17608): trained by ranking under one utility, a reward model gives every prompt
the same reward distribution. This measures it on the scores of any reward model. The unit is the ranked list: its
responses depend on each other, so whole lists are shuffled where sampling error is asked for.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.diagnostics.rewards import kolmogorov_smirnov, rank_profile, wasserstein_1

# Types whose best rewards lie closer than this (in reward) are not expected to differ.
ALIKE = 0.01
# An index of at least this is called a collapse.
COLLAPSED = 0.75
# Gold distributions differ if shuffled lists are as far apart no more often than this.
SIGNIFICANT = 0.01
FAR = 2.0  # W1 over what is expected from which it is said that types lie too far apart
# W1 over pooled standard deviation of the two extremes that utilities can ask for, the uniform law on [0, 1] and two
# atoms at its ends: 1/4 over the root of the mean variance, (1/12 + 1/4) / 2.
EXTREMES = 0.25 / np.sqrt(1 / 6)
SHUFFLES = 199
BLOCK = 2**15  # numbers at once while lists are shuffled: what a processor's cache holds


@dataclasses.dataclass(frozen=True)
class TypeReading:
    """One prompt type. ``r_star``: mean best reward at each rank, and the mean and largest distance of ``profile`` from
    it over the ranks; None where the best rewards are unknown.
    """

    lists: int
    responses: int
    profile: Float[np.ndarray, "R"]
    r_star: Float[np.ndarray, "R"] | None = None
    mean_distance: float | None = None
    max_distance: float | None = None


@dataclasses.dataclass(frozen=True)
class PairReading:
    """Two prompt types. ``w1`` (in reward) and ``ks`` compare the pooled rewards of their responses.

    ``floor`` is the mean W1, and ``p_value`` the chance of a W1 at least as large, when the types' lists are shuffled:
    what a finite sample shows of one and the same law. ``expected`` is how far apart they should be and ``basis`` says
    why: "utilities", "gold", or "scale" (nothing is known of them). ``index`` is None where the lists are too few to
    tell ``expected`` from ``floor``. ``learned`` is the spread of the rewards over that of the best ones, if known.
    """

    first: str
    second: str
    w1: float
    ks: float
    floor: float
    p_value: float
    expected: float
    basis: str
    index: float | None
    learned: float | None


@dataclasses.dataclass(frozen=True)
class Collapse:
    """Every type and every pair of types; ``index`` is None with fewer than two types, or lists too few to tell."""

    types: dict[str, TypeReading]
    pairs: list[PairReading]
    index: float | None


def measure_collapse(
    rewards: Float[np.ndarray, "N K"],
    ranks: Int[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
    types: Sequence[str],
    *,
    best: Float[np.ndarray, "N K"] | None = None,
    apart: Mapping[tuple[str, str], float] | None = None,
    gold: Float[np.ndarray, "N K"] | None = None,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> Collapse:
    """Compare the prompt types of N ranked lists of up to K responses; lists of type "" are left out, and so are
    rewards that are not finite and types that have no others.

    ``best``: the reward of each response at the optimum of its list (r*), NaN where there is none. ``apart``: the W1
    that two types should have, by pair of names in sorted order, if not that between their ``best``. ``gold``: true
    rewards, NaN where unknown. ``seed`` makes the NumPy generator that shuffles.

    The collapse index of a pair is ``1 - (W1 - floor) / (expected - floor)``, clipped to [0, 1]: 1 if the types differ
    no more than one law's samples do, 0 if they lie as far apart as they should, or farther. ``expected`` is

    * "utilities": the W1 between the best rewards that the types' utilities ask for, where that is at least 0.01;
    * else "gold": the W1 of the gold rewards over their standard deviation, times that of the rewards, where the gold
      laws differ (p at most 0.01 under shuffled lists): the distance if rewards followed gold up to scale and shift;
    * else "scale": 0.612 of the pooled standard deviation, which is 1/4 for the uniform law on [0, 1] against two atoms
      at its ends, the extremes that utilities can ask for. No unit or shift of rewards matters to it, but it is a
      convention: compare such indices with each other only.

    The index of many types is the mean over their pairs, weighted by ``expected``. Limits: it sees pooled distributions
    only, so two types with one law but different mistakes count as collapsed, and so does a model that has not learned
    anything (``PairReading.learned`` tells); errors of ranking pull every profile towards its mean and away from r*.
    """
    mask = mask & np.isfinite(rewards)  # a model gone bad: what is left is measured
    rows = {name: own for name, own in rows_of_types(types).items() if name and mask[own].any()}
    readings = {name: _type(rewards, ranks, mask, best, own) for name, own in rows.items()}
    pairs = [
        _pair((a, b), rewards, mask, (rows[a], rows[b]), best, (apart or {}).get((a, b)), gold, shuffles, seed)
        for a, b in combinations(rows, 2)
    ]
    known = [(pair.index, pair.expected) for pair in pairs if pair.index is not None]
    total = sum(weight for _, weight in known)
    # No weight at all: every reward is one and the same number.
    index = (sum(i * weight for i, weight in known) / total if total > 0 else 1.0) if known else None
    return Collapse(readings, pairs, index)


def rows_of_types(types: Sequence[str]) -> dict[str, Bool[np.ndarray, "N"]]:
    """Which of N rows are of each type, types in sorted order. NumPy's own texts would lose NULs at their end."""
    names = sorted(set(types))
    code = {name: place for place, name in enumerate(names)}
    codes = np.array([code[kind] for kind in types], int)
    return {name: codes == place for name, place in code.items()}


def coincide(found: Collapse) -> list[str]:
    """One line for each pair of types that should differ and has one reward distribution; empty if all is well.

    Nothing is said of pairs of which nothing is expected, nor while rewards spread less than half as far as the best
    ones do: a model that has not learned yet gives every prompt the same rewards, too.
    """
    return [
        f"{pair.first} and {pair.second}: one reward distribution ({_measured(pair)}): collapsed"
        for pair in found.pairs
        if pair.basis != "scale"
        and pair.index is not None
        and pair.index >= COLLAPSED
        and (pair.learned is None or pair.learned >= 0.5)
    ]


def distances(found: Collapse) -> list[str]:
    """One phrase for each pair of types of which it is known how far apart they should be: W1 and what is expected, and
    where W1 is at least ``FAR`` times that (the index, 0, does not tell), how many times.
    """
    return [
        f"{pair.first} and {pair.second}: {_measured(pair)}"
        + (f", {pair.w1 / pair.expected:.1f} times as far apart as they should lie" if is_far(pair) else "")
        for pair in found.pairs
        if pair.basis != "scale"
    ]


def is_far(pair: PairReading) -> bool:
    """Whether two types lie much farther apart than they should."""
    return pair.basis != "scale" and pair.expected > 0 and pair.w1 >= FAR * pair.expected


def _measured(pair: PairReading) -> str:
    by = "by their utilities" if pair.basis == "utilities" else "by their gold rewards"
    return f"W1 {pair.w1:.3f}, expected {pair.expected:.3f} {by}"


def w1_of_shuffled_lists(
    rewards: Float[np.ndarray, "N K"],
    mask: Bool[np.ndarray, "N K"],
    first: Bool[np.ndarray, "N"],
    second: Bool[np.ndarray, "N"],
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> tuple[float, float]:
    """(mean W1, p-value) when the lists of two types change their types at random; every way, if there are few.

    The permutation test of ``scipy.stats.permutation_test`` (alternative "greater"), over lists. W1 is the area between
    the two ECDFs; the values stay where they are and only their owners change, so that one sort serves every shuffle:
    a running count of the values in the first type gives both ECDFs. With only one list of a type nothing can be said:
    (infinity, 1).
    """
    sizes = int(first.sum()), int(second.sum())
    if min(sizes) < 2:
        return np.inf, 1.0
    rows = np.concatenate([np.flatnonzero(first), np.flatnonzero(second)])
    values, owners = rewards[rows][mask[rows]], np.nonzero(mask[rows])[0]
    order = np.argsort(values)
    owners, widths = owners[order], np.diff(values[order])
    place = np.arange(1.0, len(values))[:, None]

    def distances(in_first: Int[np.ndarray, "L S"]) -> Float[np.ndarray, "S"]:
        counts = np.cumsum(in_first[owners], axis=0, dtype=np.int32)
        below, count = counts[:-1], counts[-1].astype(float)
        apart = below * float(len(values))
        apart -= place * count  # whole numbers until here, so that equal distances come out equal
        np.abs(apart, out=apart)
        apart /= count * (len(values) - count)
        return widths @ apart

    ways, every = _ways_to_part(*sizes, shuffles, seed)
    at_once = max(1, BLOCK // len(values))
    null = np.concatenate([distances(ways[:, i : i + at_once]) for i in range(0, ways.shape[1], at_once)])
    observed = distances((np.arange(len(rows)) < sizes[0]).astype(np.int32)[:, None])[0]
    as_far = np.count_nonzero(null >= observed * (1 - 100 * np.finfo(float).eps))  # within rounding
    # A random sample of the ways counts the observed one as one more.
    return float(null.mean()), float(as_far / len(null) if every else (as_far + 1) / (len(null) + 1))


@lru_cache(maxsize=4)  # most pairs of types have as many lists as the last
def _ways_to_part(first: int, second: int, shuffles: int, seed: int) -> tuple[Int[np.ndarray, "L S"], bool]:
    """Which of ``first + second`` lists are of the first type (1, else 0) in each of ``shuffles`` shuffles; or in every
    way to part them, if there are no more of them (then True).
    """
    total = first + second
    every = comb(total, first) <= shuffles
    rng = np.random.default_rng(seed)
    chosen = combinations(range(total), first) if every else (rng.permutation(total)[:first] for _ in range(shuffles))
    rows = np.array(list(chosen)).T
    ways = np.zeros((total, rows.shape[1]), np.int32)
    np.put_along_axis(ways, rows, 1, axis=0)
    return ways, every


def _type(
    rewards: np.ndarray, ranks: np.ndarray, mask: np.ndarray, best: np.ndarray | None, own: np.ndarray
) -> TypeReading:
    rewards, ranks, mask = rewards[own], ranks[own], mask[own]
    profile, _ = rank_profile(rewards, ranks, mask)
    plain = TypeReading(int(own.sum()), int(mask.sum()), profile)
    known = mask if best is None else mask & np.isfinite(best[own])  # a list of ties alone has no best rewards
    if best is None or not known.any():
        return plain
    r_star, _ = rank_profile(best[own], ranks, known)
    profile_there, _ = rank_profile(rewards, ranks, known)
    distance = np.abs(profile_there - r_star)
    distance = distance[np.isfinite(distance)]
    return dataclasses.replace(
        plain, r_star=r_star, mean_distance=float(distance.mean()), max_distance=float(distance.max())
    )


def _pair(
    names: tuple[str, str],
    rewards: np.ndarray,
    mask: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    best: np.ndarray | None,
    apart: float | None,
    gold: np.ndarray | None,
    shuffles: int,
    seed: int,
) -> PairReading:
    own = [of_type & mask.any(axis=1) for of_type in rows]
    first, second = (rewards[rows][mask[rows]] for rows in own)
    w1 = wasserstein_1(first, second)
    floor, p_value = w1_of_shuffled_lists(rewards, mask, *own, shuffles=shuffles, seed=seed)
    spread = _spread(first, second)
    expected, basis, learned = EXTREMES * spread, "scale", None
    if best is not None:
        wanted = [best[rows][mask[rows] & np.isfinite(best[rows])] for rows in own]
        if all(len(values) for values in wanted):
            apart = wasserstein_1(*wanted) if apart is None else apart
            learned = spread / _spread(*wanted) if _spread(*wanted) > 0 else None
    if apart is not None and apart >= ALIKE:
        expected, basis = apart, "utilities"
    elif gold is not None:
        truths = [gold[rows][mask[rows]] for rows in own]
        known = not any(np.isnan(truth).any() for truth in truths) and _spread(*truths) > 0
        if known and w1_of_shuffled_lists(gold, mask, *own, shuffles=shuffles, seed=seed)[1] <= SIGNIFICANT:
            expected, basis = wasserstein_1(*truths) / _spread(*truths) * spread, "gold"
    return PairReading(
        first=names[0],
        second=names[1],
        w1=w1,
        ks=kolmogorov_smirnov(first, second),
        floor=floor,
        p_value=p_value,
        expected=float(expected),
        basis=basis,
        index=_index(w1, floor, float(expected)),
        learned=learned,
    )


def _index(w1: float, floor: float, expected: float) -> float | None:
    if expected == 0:  # not even a scale: all rewards are equal
        return 1.0
    if not np.isfinite([w1, expected]).all() or expected <= floor:
        return None
    return float(np.clip(1 - (w1 - floor) / (expected - floor), 0.0, 1.0))


def _spread(first: np.ndarray, second: np.ndarray) -> float:
    """Standard deviation of the equal mixture of two samples: no type counts more for having more lists."""
    means, variances = zip(*((values.mean(), values.var()) for values in (first, second)), strict=True)
    return float(np.sqrt(np.mean(variances) + np.var(means)))
