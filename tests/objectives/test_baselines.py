"""Advantages without a value model: by loops, by the identities between them, and unbiased by exact enumeration."""

import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives import baselines

GROUP, EPISODES, SLOTS = 4, 12, 5


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def paid() -> tuple[np.ndarray, np.ndarray]:
    """Rewards with rubbish in masked slots, and a ragged prefix mask."""
    random = np.random.default_rng(0)
    mask = np.arange(SLOTS) < random.integers(1, SLOTS + 1, EPISODES)[:, None]
    return np.where(mask, random.normal(size=mask.shape), np.nan), mask


def call(estimate: Callable[..., jax.Array], rewards: np.ndarray, mask: np.ndarray, *rest: float) -> np.ndarray:
    return np.asarray(estimate(jnp.asarray(rewards), jnp.asarray(mask), *rest))


def sums(rewards: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.array([row[kept].sum() for row, kept in zip(rewards, mask, strict=True)])


def test_rloo_is_less_the_mean_of_the_others(paid: tuple[np.ndarray, np.ndarray]) -> None:
    rewards, mask = paid
    total, expected = sums(rewards, mask), np.zeros(mask.shape)
    for row in range(EPISODES):
        first = row - row % GROUP
        others = [total[other] for other in range(first, first + GROUP) if other != row]
        expected[row] = np.where(mask[row], total[row] - np.mean(others), 0.0)
    np.testing.assert_allclose(call(baselines.rloo, rewards, mask, GROUP), expected, atol=1e-12)


def test_dr_grpo_is_rloo_times_a_constant_and_grpo_dr_grpo_by_the_deviation(
    paid: tuple[np.ndarray, np.ndarray],
) -> None:
    """A_dr = (G - 1) / G A_rloo, A_grpo = A_dr / (s + 1e-4) with s of G - 1 degrees of freedom."""
    rewards, mask = paid
    dr = np.asarray(call(baselines.dr_grpo, rewards, mask, GROUP))
    np.testing.assert_allclose(dr, (GROUP - 1) / GROUP * call(baselines.rloo, rewards, mask, GROUP), atol=1e-12)
    spread = np.std(sums(rewards, mask).reshape(-1, GROUP), axis=1, ddof=1).repeat(GROUP)[:, None]
    np.testing.assert_allclose(call(baselines.grpo, rewards, mask, GROUP), dr / (spread + 1e-4), atol=1e-12)


def test_a_group_that_agrees_has_no_advantage() -> None:
    rewards, mask = np.full((GROUP, 1), 0.7), np.ones((GROUP, 1), bool)
    for estimate in (baselines.rloo, baselines.dr_grpo, baselines.grpo):
        np.testing.assert_allclose(call(estimate, rewards, mask, GROUP), 0.0, atol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_and_reinforce_pp_by_loops(paid: tuple[np.ndarray, np.ndarray], gamma: float) -> None:
    rewards, mask = paid
    total, to_go = sums(rewards, mask), np.zeros(mask.shape)
    for row, start in itertools.product(range(EPISODES), range(SLOTS)):
        later = range(start, mask[row].sum())
        to_go[row, start] = sum(gamma ** (slot - start) * rewards[row, slot] for slot in later)
    others = np.array([np.delete(total, row).mean() for row in range(EPISODES)])
    own = total.reshape(-1, GROUP).mean(axis=1).repeat(GROUP)

    def less(baseline: np.ndarray) -> np.ndarray:
        return np.where(mask, to_go - baseline[:, None], 0.0)

    np.testing.assert_allclose(call(baselines.reinforce, rewards, mask, gamma), less(others), atol=1e-12)
    np.testing.assert_allclose(call(baselines.reinforce_pp, rewards, mask, gamma), less(np.zeros(EPISODES)), atol=1e-12)
    np.testing.assert_allclose(call(baselines.reinforce_pp, rewards, mask, gamma, GROUP), less(own), atol=1e-12)


def expected_gradient(estimate: Callable[..., jax.Array], size: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean over ALL outcomes of the policy-gradient estimate, the gradient of the mean reward) of a bandit.

    Three arms, ``size`` pulls: 3^size outcomes, each with its probability.
    """
    rewards, policy = np.array([1.0, 0.2, -0.5]), np.array([0.5, 0.3, 0.2])
    outcomes = np.array(list(itertools.product(range(3), repeat=size)))
    chance = np.prod(policy[outcomes], axis=1)
    mask = jnp.ones((size, 1), bool)
    advantages = np.asarray(jax.vmap(lambda paid: estimate(paid, mask))(jnp.asarray(rewards[outcomes][..., None])))
    score = np.eye(3)[outcomes] - policy  # grad log pi by the logits
    estimates = np.mean(advantages * score, axis=1)
    return chance @ estimates, policy * (rewards - policy @ rewards)


@pytest.mark.parametrize(
    ("estimate", "scale"),
    [
        (lambda paid, mask: baselines.reinforce(paid, mask, 1.0), 1.0),
        (lambda paid, mask: baselines.rloo(paid, mask, 3), 1.0),
        (lambda paid, mask: baselines.dr_grpo(paid, mask, 3), 3 / 2),
    ],
    ids=["reinforce", "rloo", "dr_grpo"],
)
def test_the_expected_gradient_is_the_true_one(estimate: Callable[..., jax.Array], scale: float) -> None:
    found, true = expected_gradient(estimate, 3)
    np.testing.assert_allclose(scale * found, true, atol=1e-12)


def test_grpo_divides_by_the_deviation_and_points_elsewhere() -> None:
    """Not even a multiple of the true gradient: groups of little spread count for more."""
    found, true = expected_gradient(lambda paid, mask: baselines.grpo(paid, mask, 3), 3)
    along = found @ true / (true @ true)
    assert np.linalg.norm(found - along * true) > 0.02 * np.linalg.norm(found)
