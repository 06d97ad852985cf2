"""The family through power, log and negative power; what recovers its shape; the gates' scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.only_two_classes import dispersion, trainer
from experiments.only_two_classes.family import BoxCox, quantiles, shape_of_moment, win_table
from rlhf_jax.objectives.utilities import Log, NegativePower, Power


@pytest.mark.parametrize(
    ("shape", "member", "factor"),
    [(0.25, Power(gamma=0.5), 2.0), (0.5, Log(), 1.0), (0.75, NegativePower(gamma=0.5), 2.0)],
)
def test_slopes_are_those_of_power_log_and_negative_power_up_to_a_scale(shape, member, factor):
    gaps = jnp.array([-0.5, 0.0, 0.02, 0.2, 0.7, 1.0])
    member = dataclasses.replace(member, epsilon=0.05)
    found = BoxCox(epsilon=0.05, shape=shape).slope(gaps)
    np.testing.assert_allclose(found, factor * member.slope(gaps), rtol=1e-5)
    np.testing.assert_allclose(found, jax.vmap(jax.grad(BoxCox(epsilon=0.05, shape=shape).value))(gaps), rtol=2e-3)
    assert BoxCox(shape=shape).limit_law() == member.limit_law()


def test_the_family_is_continuous_through_log():
    gaps = jnp.array([0.05, 0.3, 0.9])
    for shape in (0.499, 0.49999, 0.5, 0.50001, 0.501):
        np.testing.assert_allclose(BoxCox(shape=shape, epsilon=0.01).value(gaps), jnp.log(gaps), atol=0.02)


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.9])
def test_the_second_moment_gives_the_shape_back(shape):
    samples = np.random.default_rng(0).beta(shape, shape, 200_000)
    assert shape_of_moment(((samples - 0.5) ** 2).mean()) == pytest.approx(shape, abs=0.01)
    np.testing.assert_allclose(np.sort(samples)[::20_000][1:], quantiles(shape, np.arange(1, 10) / 10), atol=0.02)


@pytest.mark.parametrize("place", [3, 16, 28])
def test_the_likelihood_of_votes_is_best_at_the_true_shape(place):
    # Expected votes of a very large number of raters on lists of that shape.
    votes = jnp.asarray(trainer.VOTES * win_table(trainer.GRID[[place]], trainer.LIST, trainer.TAU)[0])
    found = [float(trainer.vote_log_likelihood(jnp.asarray(shape), votes)) for shape in trainer.GRID]
    assert abs(int(np.argmax(found)) - place) <= 1


def test_the_gate_of_its_own_utility_likes_two_points_whatever_the_list():
    rewards = jnp.linspace(1.0, 0.0, trainer.LIST)
    found = [float(trainer.list_utility(rewards, jnp.asarray(s), balanced=False)) for s in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert found == sorted(found, reverse=True)


def test_disagreement_over_all_pairs_is_no_monotone_function_of_the_shape_and_votes_at_the_ends_are():
    table = [trainer.expected_wins(jnp.asarray(shape)) for shape in (0.05, 0.3, 0.5, 0.7, 0.95)]
    ends = [float(trainer.end_votes(p)) for p in table]
    everywhere = [float(trainer.disagreement(p)) for p in table]
    assert ends == sorted(ends)
    assert everywhere[0] > everywhere[2] < everywhere[4]


def test_a_gate_of_two_classes_finds_which_of_the_shapes_its_votes_follow():
    lists, shape = trainer.draw_lists(0, 256)
    arm = trainer.Arm("likelihood", 2)
    leaves = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), lists)
    size = trainer.Size(steps=250, batch=32, width=8)
    _, gate = jax.jit(lambda key, lists: trainer.train(arm, size, key, lists))(jax.random.key(0), leaves)
    found = np.asarray(jax.vmap(lambda x: trainer.shape_of(arm, gate, x))(leaves.x))
    assert len(np.unique(found)) == 2
    assert np.corrcoef(found, shape)[0, 1] > 0.7


def test_classes_are_equally_frequent_and_keep_the_mean():
    shape = np.random.default_rng(1).uniform(0.05, 0.95, 999)
    found = trainer.classes_of(shape, 3)
    values, counts = np.unique(found, return_counts=True)
    assert len(values) == 3
    assert counts.tolist() == [333, 333, 333]
    assert found.mean() == pytest.approx(shape.mean())


def test_dispersion_of_scores():
    odds = np.array([[-3.0, -1.0, 1.0, 3.0], [-2.0, -2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    normalised = dispersion.normalised_logits(1 / (1 + np.exp(-odds)))
    np.testing.assert_allclose(normalised, [[0, 1 / 3, 2 / 3, 1], [0, 0, 1, 1], [0.5] * 4], atol=1e-5)
    moment = dispersion.second_moment(normalised)
    np.testing.assert_allclose(moment, [(0.25 + 1 / 36) / 2, 0.25, 0.0], atol=1e-5)
    assert dispersion.types_of(moment, 3).tolist() == [1, 2, 0]


def test_reliability_is_zero_by_chance_and_high_for_lists_that_differ():
    rng = np.random.default_rng(2)
    chance = rng.random((2000, 8))
    assert abs(dispersion.reliability(chance, draws=10)) < 0.05
    assert dispersion.share_explained(chance[:, 0], ["a", "b"] * 1000) == pytest.approx(0.0, abs=0.01)
    two_points = np.where(rng.random(chance.shape) < 0.5, 0.01, 0.99)
    mixed = np.where(np.arange(2000)[:, None] % 2, chance, two_points)
    assert dispersion.reliability(mixed, draws=10) > 0.1
