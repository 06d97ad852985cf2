"""Degenerate judgements under every loss: ties, single responses, missing ones, constant and huge rewards, utilities at
the limits of what the configuration lets pass.

The truth is each loss as a sum over pairs in NumPy, written here from its published formula; a list of two is one pair.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from scipy.special import expit

from rlhf_jax.objectives import preference
from rlhf_jax.objectives.choices import plackett_luce_loss
from rlhf_jax.objectives.numeric import centering_loss, label_loss, score_loss
from rlhf_jax.objectives.ranking import comparable_pairs, ranked_utility_loss
from rlhf_jax.objectives.ties import davidson_loss, rao_kupper_loss
from rlhf_jax.objectives.utilities import make_utility

K = 6  # responses of a list, those that are missing included: one program for all examples
MARGIN = 0.3
NOTHING = (math.nan, math.inf, -math.inf)  # what stands at missing responses


def softplus(x: float) -> float:
    return float(np.logaddexp(0.0, x))


def bent(value: Callable, slope: Callable, knee: float, shift: float = 0.0) -> Callable[[float], float]:
    """U from the knee on, its tangent below."""

    def utility(x: float) -> float:
        x, at = x + shift, knee + shift
        return value(x) if x >= at else value(at) + slope(at) * (x - at)

    return utility


def power(gamma: float) -> tuple[Callable, Callable]:
    return lambda x: x**gamma, lambda x: gamma * x ** (gamma - 1)


def negative(gamma: float) -> tuple[Callable, Callable]:
    return lambda x: -(x**-gamma), lambda x: gamma * x ** (-gamma - 1)


def exponential(sigma: float) -> tuple[Callable, Callable]:
    return lambda x: -math.exp(-x / sigma), lambda x: math.exp(-x / sigma) / sigma


LOG = (math.log, lambda x: 1 / x)
UTILITIES = [
    (make_utility("power", gamma=1e-3, epsilon=1e-6), bent(*power(1e-3), 1e-6)),
    (make_utility("power", gamma=1.0, epsilon=0.1), bent(*power(1.0), 0.1)),
    (make_utility("power", gamma=0.5, epsilon=1e-8, extension="shift"), bent(*power(0.5), 0.0, 1e-8)),
    (make_utility("negative_power", gamma=1e-3, epsilon=1e-6), bent(*negative(1e-3), 1e-6)),
    (make_utility("negative_power", gamma=5.0, epsilon=0.01), bent(*negative(5.0), 0.01)),
    (make_utility("negative_power", gamma=1.0, epsilon=1e-5, extension="shift"), bent(*negative(1.0), 0.0, 1e-5)),
    (make_utility("log", epsilon=1e-12), bent(*LOG, 1e-12)),
    (make_utility("log", epsilon=10.0, extension="shift"), bent(*LOG, 0.0, 10.0)),
    (make_utility("log_sigmoid", sigma=1e-6), lambda x: -softplus(-x / 1e-6)),
    (make_utility("log_sigmoid", sigma=1e6), lambda x: -softplus(-x / 1e6)),
    (make_utility("linear"), lambda x: x),
    (make_utility("exponential", sigma=1e-6), bent(*exponential(1e-6), 0.0)),
    (make_utility("exponential", sigma=1e6), bent(*exponential(1e6), 0.0)),
    (make_utility("quantile", a=0.05, b=0.05, epsilon=0.02), None),  # it weighs its pairs: by hand only of two
    (make_utility("quantile", a=50.0, b=0.5, epsilon=1e-6), None),
]
OF_TWO = {13: bent(*LOG, 0.02), 14: bent(*LOG, 1e-6)}

LEVELS = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e-30, 1e6, -1e6])
REWARDS = st.one_of(
    st.lists(st.floats(0, 1), min_size=K, max_size=K),
    st.lists(LEVELS, min_size=K, max_size=K),
    LEVELS.map(lambda level: [level] * K),  # no variance at all
    st.lists(st.floats(-1e6, 1e6), min_size=K, max_size=K),
    st.floats(0, 1).flatmap(lambda level: st.lists(st.floats(level - 1e-7, level + 1e-7), min_size=K, max_size=K)),
)
LISTS = st.tuples(
    REWARDS,
    st.lists(st.integers(0, K - 1), min_size=K, max_size=K),
    st.one_of(
        st.lists(st.booleans(), min_size=K, max_size=K), st.integers(0, K).map(lambda n: [i < n for i in range(K)])
    ),
    st.permutations(range(K)),
)


def examples(tally, strategy: st.SearchStrategy, check: Callable) -> None:
    """One try for each example that Hypothesis makes."""

    @how(
        max_examples=len(tally.tries),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def tried(example: tuple) -> None:
        with tally.one(repr(example)[:300]):
            check(*example)

    tried()


def dense(ranks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Ranks as readers give them: 0 .. T - 1 over the responses that exist."""
    order = {rank: place for place, rank in enumerate(sorted(set(ranks[mask])))}
    return np.array([order.get(rank, 0) for rank in ranks])


def checked(losses: Callable, rewards: list, ranks: list, mask: list, order: list, by_hand: Callable) -> None:
    """Finite losses and gradients, exact zeros where nothing is, the same in another order, the truth by hand.

    ``losses`` takes rewards, ranks and mask and gives all losses and their gradients.
    """
    kept, order = np.array(mask), np.array(order)
    ranked = dense(np.array(ranks), kept)
    held = np.where(kept, rewards, np.resize(NOTHING, K))
    value, slope = losses(jnp.asarray(held, jnp.float32), jnp.asarray(ranked), jnp.asarray(kept))
    assert np.all(np.isfinite(value)), f"losses {value}"
    assert np.all(np.isfinite(slope)), f"gradients {slope}"
    assert np.all(np.asarray(slope)[:, ~kept] == 0.0), f"gradient of what is not there: {slope}"
    with jax.enable_x64(True):
        exact, turned = (
            np.asarray(losses(jnp.asarray(held[o], jnp.float64), jnp.asarray(ranked[o]), jnp.asarray(kept[o]))[0])
            for o in (np.arange(K), order)
        )
    wanted = by_hand(np.array(rewards, np.float64), ranked, kept)
    for place, (found, other, truth) in enumerate(zip(exact, turned, wanted, strict=True)):
        near = 1e-6 * max(1.0, abs(truth) if math.isfinite(truth) else abs(float(found)))
        assert abs(found - other) <= near, f"loss {place}: {found}, in another order {other}"
        assert math.isnan(truth) or abs(found - truth) <= near, f"loss {place}: {found}, by hand {truth}"


def pairs_of(ranks: np.ndarray, mask: np.ndarray) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.permutations(range(K), 2) if mask[i] and mask[j] and ranks[i] < ranks[j]]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def with_slopes(losses: Callable) -> Callable:
    """Losses (L,) and their gradients (L, K), as one program."""
    return jax.jit(lambda rewards, *rest: (losses(rewards, *rest), jax.jacrev(losses)(rewards, *rest)))


@with_slopes
def utility_losses(rewards, ranks, mask):
    def loss(utility, margin):
        return ranked_utility_loss(rewards=rewards, ranks=ranks, mask=mask, utility=utility, margin=margin)

    margins = jnp.asarray([0.0, MARGIN], rewards.dtype)
    return jnp.concatenate([jax.vmap(lambda margin, u=u: loss(u, margin))(margins) for u, _ in UTILITIES])


@pytest.mark.reliability("R16", tries=500, torture=10_000)
def test_utilities(tally) -> None:
    """-1/|P| sum U(r_i - r_j - margin), every member of the family at the ends of its parameters (Song et al. 2023)."""

    def by_hand(rewards, ranks, mask):
        pairs = pairs_of(ranks, mask)
        found = []
        for place, (_, formula) in enumerate(UTILITIES):
            if formula is None and mask.sum() == 2:
                formula = OF_TWO[place]
            for margin in (0.0, MARGIN):
                gaps = [rewards[i] - rewards[j] - margin for i, j in pairs]
                found.append(math.nan if formula is None else -mean([formula(gap) for gap in gaps]))
        return found

    examples(tally, LISTS, lambda *example: checked(utility_losses, *example, by_hand))


TERMS = [
    (preference.logistic, lambda g: softplus(-g)),
    (lambda g: preference.logistic(g, 0.1), lambda g: 0.9 * softplus(-g) + 0.1 * softplus(g)),
    (lambda g: preference.robust(g, 0.49), lambda g: (0.51 * softplus(-g) - 0.49 * softplus(g)) / 0.02),
    (lambda g: preference.squared(g, 1e-3), lambda g: (g - 500.0) ** 2),
    (preference.hinge, lambda g: max(0.0, 1.0 - g)),
    (lambda g: preference.clipped(g, 2.0), lambda g: softplus(-min(max(g, -2.0), 2.0))),
]
THRESHOLDS, WEIGHTS = (1e-6, 0.5, 30.0), (1e-6, 0.5, 1e6)


@with_slopes
def order_losses(rewards, ranks, mask):
    better = comparable_pairs(ranks, mask)
    tied = (ranks[:, None] == ranks[None, :]) & mask[:, None] & mask[None, :] & ~jnp.eye(K, dtype=bool)
    both = {"rewards": rewards, "better": better, "tied": tied}
    return jnp.stack(
        [
            *(preference.mean_over_pairs(rewards=rewards, better=better, term=term) for term, _ in TERMS),
            *(plackett_luce_loss(rewards=rewards, better=better, top=top) for top in (0, 1)),
            *(rao_kupper_loss(**both, threshold=threshold) for threshold in THRESHOLDS),
            *(davidson_loss(**both, weight=weight) for weight in WEIGHTS),
        ]
    )


@pytest.mark.reliability("R16", tries=500, torture=10_000)
def test_orders(tally) -> None:
    """Direct preference losses, Plackett-Luce, Rao-Kupper and Davidson, from the formulas of their papers."""

    def by_hand(rewards, ranks, mask):
        pairs = pairs_of(ranks, mask)
        here = [i for i in range(K) if mask[i]]
        ties = [(i, j) for i, j in itertools.combinations(here, 2) if ranks[i] == ranks[j]]
        found = [mean([formula(rewards[i] - rewards[j]) for i, j in pairs]) for _, formula in TERMS]
        for top in (0, 1):
            terms = []
            for i in here:
                beaten = [j for j in here if ranks[j] > ranks[i]]
                if beaten and not (top and sum(ranks[j] < ranks[i] for j in here) >= top):
                    terms.append(np.logaddexp.reduce([rewards[i], *rewards[beaten]]) - rewards[i])
            found.append(mean(terms))
        for threshold in THRESHOLDS:
            wins = [softplus(-(rewards[i] - rewards[j] - threshold)) for i, j in pairs]
            even = []
            for i, j in ties:
                gap = rewards[i] - rewards[j]
                log = 2 * threshold + math.log(-math.expm1(-2 * threshold))
                even.append(-log + softplus(threshold + gap) + softplus(threshold - gap))
            found.append(mean(wins + even))
        for weight in WEIGHTS:
            terms = []
            for i, j in pairs + ties:
                half = (rewards[i] - rewards[j]) / 2
                total = np.logaddexp.reduce([half, -half, math.log(weight)])
                terms.append(total - (math.log(weight) if (i, j) in ties else half))
            found.append(mean(terms))
        return found

    examples(tally, LISTS, lambda *example: checked(order_losses, *example, by_hand))


@with_slopes
def number_losses(rewards, ranks, mask):
    labels = jnp.asarray(ranks, rewards.dtype) / K
    scores = 1e6 * (labels - 0.5)
    good, bad = jnp.where(mask, labels, 0.0), jnp.where(mask, 1.0 - labels, 0.0)
    inside = jnp.where(mask, jax.nn.sigmoid(jnp.where(mask, rewards, 0.0)), jnp.nan)
    return jnp.stack(
        [
            label_loss(rewards=rewards, labels=labels, mask=mask, bounded=False),
            score_loss(rewards=rewards, scores=scores, mask=mask),
            score_loss(rewards=rewards, scores=scores, mask=mask, huber=1e-3),
            centering_loss(rewards=rewards, mask=mask, centre=0.5),
            preference.kahneman_tversky_loss(rewards=rewards, baseline=1e6, good=good, bad=bad),
            label_loss(rewards=inside, labels=labels, mask=mask, bounded=True),
        ]
    )


@pytest.mark.reliability("R16", tries=500, torture=10_000)
def test_numbers(tally) -> None:
    """Verdicts, scores of half a million, centring and KTO, from their formulas."""

    def by_hand(rewards, ranks, mask):
        here = [i for i in range(K) if mask[i]]
        labels = {i: ranks[i] / K for i in here}
        errors = [rewards[i] - 1e6 * (labels[i] - 0.5) for i in here]
        kto = [labels[i] * expit(1e6 - rewards[i]) + (1 - labels[i]) * expit(rewards[i] - 1e6) for i in here]
        return [
            mean([softplus(rewards[i]) - labels[i] * rewards[i] for i in here]),
            mean([error**2 / 2 for error in errors]),
            mean([error**2 / 2 if abs(error) <= 1e-3 else 1e-3 * (abs(error) - 5e-4) for error in errors]),
            (2 * (mean([rewards[i] for i in here]) - 0.5)) ** 2 * bool(here),
            mean(kto),
            math.nan,  # of rewards that are kept 1e-6 from 0 and 1
        ]

    examples(tally, LISTS, lambda *example: checked(number_losses, *example, by_hand))
