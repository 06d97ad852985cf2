"""Orders of eight responses: what is compared, and what training makes of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.partial_orders.analysis import middle_of_three
from experiments.partial_orders.experiment import solved
from experiments.partial_orders.orders import SIZE, SPARSE, TIERS, better, ranks_of
from experiments.partial_orders.sweep import MEMBERS
from experiments.partial_orders.trainer import draw, order_loss, train_free
from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import make_utility


def utility(name):
    member, parameters = MEMBERS[name]
    return make_utility(member, **parameters)


@pytest.mark.parametrize(
    ("order", "pairs"), [("full", 28), ("two", 16), ("two_uneven", 12), ("three", 21), ("chain", 7), ("star", 7)]
)
def test_an_order_compares_the_pairs_of_its_name(order, pairs):
    found = better(order)
    assert found.sum() == pairs
    assert not np.any(np.tril(found)), "the responses are given best first"


def test_the_sparse_order_has_each_response_in_a_pair():
    assert better("sparse").sum() == len(set(SPARSE)) == 11
    assert set(np.array(SPARSE).ravel()) == set(range(SIZE))


@pytest.mark.parametrize("order", TIERS)
def test_the_loss_of_a_graph_is_the_ranking_loss_where_the_graph_is_tiers(order):
    rewards = jnp.linspace(0.9, 0.2, SIZE) ** 2
    ranks, everything = jnp.asarray(ranks_of(TIERS[order])), jnp.ones(SIZE, bool)
    expected = ranked_utility_loss(rewards=rewards, ranks=ranks, mask=everything, utility=utility("log"))
    np.testing.assert_allclose(order_loss(rewards, jnp.asarray(better(order)), utility("log")), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["power_0.5", "negative_power_1", "log_sigmoid_0.25"])
def test_two_tiers_train_to_two_points_and_other_orders_to_the_solver(name):
    orders = ("two", "two_uneven", "three", "sparse")
    graphs = np.stack([better(order) for order in orders])
    found = train_free(utility(name), graphs, np.ones(graphs.shape), seeds=2, steps=1500)
    for order, rewards in zip(orders, found, strict=True):
        best = solved(utility(name), order, trained=True).rewards
        np.testing.assert_allclose(rewards, np.broadcast_to(best, rewards.shape), atol=0.01)
    np.testing.assert_allclose(found[0], [[1, 1, 1, 1, 0, 0, 0, 0]] * 2, atol=0.01)
    np.testing.assert_allclose(found[1], [[1, 1, 0, 0, 0, 0, 0, 0]] * 2, atol=0.01)


@pytest.mark.parametrize(("name", "middle"), [("power_0.5", 0.69231), ("log", 0.6), ("negative_power_1", 0.55051)])
def test_the_middle_of_three_tiers_is_the_published_one(name, middle):
    assert middle_of_three(name) == pytest.approx(middle, abs=1e-5)
    np.testing.assert_allclose(solved(utility(name), "three", trained=False).rewards[2:5], middle, atol=1e-5)


def test_broken_ties_rank_by_quality_and_kept_ones_by_the_grade():
    kept, broken = draw(0, 6, "kept"), draw(0, 6, "broken")
    np.testing.assert_array_equal(kept.features, broken.features)
    assert kept.ranks[2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert kept.ranks[1].tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert broken.ranks.tolist() == [list(range(SIZE))] * 6
    quality, grade = kept.features[..., -2], kept.features[..., -1]
    assert np.all(np.diff(quality, axis=1) < 0)
    assert np.unique(grade[2]).tolist() == [-1.0, 1.0]
    assert len(np.unique(grade[0])) == SIZE
