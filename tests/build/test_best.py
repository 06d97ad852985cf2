"""The best rewards of a stage's lists: by SciPy's optimiser, and what is recorded of them."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_jax.build.best import best_of_lists, optimum_record, w1_between_types
from rlhf_jax.data.examples import ListExample
from rlhf_jax.objectives.utilities import Linear, Log, NegativePower, Power, Utility

TOKEN = np.asarray([1], np.int32)
TABLE = ((NegativePower(), Power(gamma=0.8, epsilon=1e-3)), {"closed": 1})


def lists(*ranks_and_types: tuple[tuple[int, ...], str]) -> list[ListExample]:
    return [
        ListExample(TOKEN, (TOKEN,) * len(ranks), ranks, kind, place)
        for place, (ranks, kind) in enumerate(ranks_and_types)
    ]


def test_a_tied_list_has_the_best_rewards_of_its_own_tiers() -> None:
    """Ranks stand as in the file; the answer, best response first, maximises the utility as trained over its pairs."""
    ranks = (2, 0, 1, 1, 3)
    utility = NegativePower(epsilon=0.4)  # its straight line reaches over the gaps of neighbours
    (found,) = best_of_lists(lists((ranks, "open")), ((utility,), {}), 8)
    in_order = np.sort(ranks)
    pairs = in_order[:, None] < in_order[None, :]

    def loss(r: np.ndarray) -> float:
        x = (r[:, None] - r[None, :])[pairs]
        tangent = -(0.4**-0.5) + 0.5 * 0.4**-1.5 * (x - 0.4)
        return -float(np.sum(np.where(x >= 0.4, -(np.maximum(x, 0.4) ** -0.5), tangent)))

    best = minimize(loss, np.linspace(1, 0, 5), method="L-BFGS-B", bounds=[(0, 1)] * 5, tol=1e-12)
    assert found is not None
    np.testing.assert_allclose(found, best.x, atol=2e-3)


def test_a_long_list_has_those_of_the_responses_that_are_kept() -> None:
    long, short = best_of_lists(lists((tuple(range(9)), "closed"), (tuple(range(3)), "closed")), TABLE, 3)
    assert long is not None
    np.testing.assert_array_equal(long, short)
    assert len(long) == 3


def test_what_has_no_optimum_has_none() -> None:
    @dataclasses.dataclass(frozen=True)
    class Convex(Utility):
        def raw(self, x):
            return x * x

    assert best_of_lists(lists(((0, 0, 0), "open")), TABLE, 8) == [None]
    assert best_of_lists(lists(((0, 1, 2), "open")), ((Convex(),), {}), 8) == [None]


def test_types_lie_as_far_apart_as_their_best_rewards_and_the_record_says_so() -> None:
    """Linear in lists of four: 1 1 0 0. W1 against the other type is the mean distance place by place."""
    examples = lists(((0, 1, 2, 3), "open"), ((0, 1, 2, 3), "closed"), ((0, 1, 2, 3), ""))
    table, wanted = ((Log(),), {}), ((Log(), Linear()), {"closed": 1})
    trained, asked = best_of_lists(examples, table, 4), best_of_lists(examples, wanted, 4)
    assert trained[0] is not None
    apart = w1_between_types(examples, asked)
    expected = np.abs(trained[0] - [1, 1, 0, 0]).mean()
    assert apart == {("closed", "open"): pytest.approx(expected)}
    assert w1_between_types(examples, [None, *asked[1:]]) == {}
    record = optimum_record(examples, trained, table, wanted, apart)
    assert list(record) == ["", "closed", "open"]
    assert record["closed"] == {
        "utility": repr(Log()),
        "r": trained[0].tolist(),
        "limit": {"a": 0.5, "b": 0.5, "atom": 0.0},
        "wanted": repr(Linear()),
        "apart": {"open": pytest.approx(expected)},
    }
    assert record[""]["apart"] == {}
    tied = lists(((0, 1, 2, 3), "open"), ((0, 0, 1, 2), "open"))
    assert optimum_record(tied, best_of_lists(tied, table, 4), table, wanted, {})["open"]["r"] is None
