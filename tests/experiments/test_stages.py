"""SFT, reward models and PPO of the small worlds, each against the closed form that it tends to."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import stages
from experiments.measures import tilted
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import init_decoder, silent_value_head
from rlhf_jax.types import Params

FORM = stages.make_form(vocab=3, prompt=1, horizon=2)
PROMPTS = np.array([[1], [2]], np.int32)
TOLD = np.array([(0, 0), (1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2)], np.int32)  # all there are
LAW = np.array([[0.05, 0.5, 0.05, 0.1, 0.1, 0.1, 0.1], [0.3, 0.05, 0.2, 0.05, 0.05, 0.3, 0.05]])  # by prompt
IDS, MASK = (leaf.reshape(-1, 3) for leaf in stages.rows(np.repeat(PROMPTS[:, None], 7, axis=1), np.stack([TOLD] * 2)))


def law(policy: Params) -> np.ndarray:
    return np.exp(np.asarray(stages.log_probabilities(FORM, policy, IDS, MASK), float)).reshape(2, 7)


@pytest.fixture(scope="module")
def tuned() -> Params:
    """Trained on demonstrations in exactly the shares of LAW."""
    counts = np.round(100 * LAW).astype(int)
    prompts = np.repeat(np.repeat(PROMPTS, 7, axis=0), counts.ravel(), axis=0)
    responses = np.repeat(np.concatenate([TOLD, TOLD]), counts.ravel(), axis=0)
    return stages.fine_tune(FORM, prompts, responses, seed=0, steps=600, rate=3e-3)


def test_a_response_counts_up_to_its_end() -> None:
    found = stages.mask_of(np.array([[1, 2, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 2, 0]]))
    assert found.astype(int).tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    ids, mask = stages.rows(np.array([[7, 8]]), np.array([[1, 0, 0]]))
    assert ids.tolist() == [[7, 8, 1, 0, 0]]
    assert mask.tolist() == [[True, True, True, True, False]]


def test_probabilities_of_all_responses_sum_to_one() -> None:
    policy = init_decoder(FORM.model, jax.random.key(3))
    policy["embedding"] = 10 * policy["embedding"]
    found = law(policy)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    assert np.ptp(found) > 0.1


def test_fine_tuning_ends_at_the_shares_of_the_demonstrations(tuned: Params) -> None:
    found = law(tuned)
    assert 0.5 * np.abs(found - LAW).sum(axis=1).max() < 0.05
    assert 0.5 * np.abs(found - LAW[::-1]).sum(axis=1).min() > 0.3  # each prompt has its own


@pytest.mark.parametrize("members", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_reward_model_ends_at_the_log_odds_of_the_judgements(members: int) -> None:
    """Of each ten lists a response won w: Bradley-Terry is best where rewards differ by log(w / (10 - w))."""
    wins = {0: 8, 1: 3}  # of (1, 0) over (2, 1), by prompt
    prompts, ranks = [], []
    for place, won in wins.items():
        prompts += [PROMPTS[place]] * 10
        ranks += [(0, 1)] * won + [(1, 0)] * (10 - won)
    told = np.stack([TOLD[[1, 5]]] * 20)
    params = stages.train_reward(
        FORM, np.array(prompts), told, np.array(ranks), seed=0, steps=400, rate=3e-3, members=members
    )
    rewards = np.asarray(stages.member_rewards(FORM, members, params, IDS, MASK)).reshape(members, 2, 7)
    for place, won in wins.items():
        gaps = rewards[:, place, 1] - rewards[:, place, 5]
        np.testing.assert_allclose(gaps, math.log(won / (10 - won)), atol=0.25)
    if members == 2:
        assert not np.allclose(rewards[0], rewards[1], atol=1e-3)


def test_scaled_rewards_have_mean_0_and_deviation_1_under_the_law() -> None:
    rewards = np.array([[1.0, 5.0], [2.0, 4.0]])
    shares = np.array([[0.5, 0.5], [0.0, 1.0]])  # 1, 5, 4 by a quarter, a quarter, a half
    found = stages.scaled({}, rewards, shares)
    mean, deviation = 3.5, math.sqrt((2.5**2 + 1.5**2 + 2 * 0.5**2) / 4)
    assert float(found["bias"]) == pytest.approx(mean)
    assert float(found["gain"]) == pytest.approx(1 / deviation)


PAID = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0])  # of TOLD, to prompt 1; prompt 2 is paid the reverse


def paid(judge: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
    told = jnp.where(mask[:, 1:], ids[:, 1:], 0)
    which = jnp.argmax(jnp.all(told[:, None] == TOLD, axis=2), axis=1)
    return jnp.where(ids[:, 0] == 1, judge[which], judge[::-1][which])


@pytest.mark.slow
def test_ppo_ends_at_the_tilted_reference_of_each_prompt(tuned: Params) -> None:
    course = stages.Course(records=2, every=40, episodes=256, rate=5e-3)
    policies = stages.optimise(
        FORM, course, paid, jnp.asarray(PAID, jnp.float32), PROMPTS, np.array([0.5, 0.5]), tuned, beta=0.5, seed=0
    )
    reference, found = law(policies[0]), law(policies[-1])
    best = np.stack([tilted(pay, p / p.sum(), 0.5) for pay, p in zip((PAID, PAID[::-1]), reference, strict=True)])
    assert len(policies) == 3
    assert (0.5 * np.abs(reference - best).sum(axis=1)).min() > 0.3
    assert (0.5 * np.abs(found - best).sum(axis=1)).max() < 0.06


@pytest.mark.slow
def test_a_rollout_asks_by_the_shares_and_scores_what_was_said(tuned: Params) -> None:
    """Of 400 prompts a quarter are the first; scores are of the table, the references' log-probabilities their own."""
    params = {"policy": tuned, "value": {"decoder": tuned, "head": silent_value_head(FORM.model)}}
    state = init_state(params, optax.sgd(0.0), jax.random.key(1))
    reference = init_decoder(FORM.model, jax.random.key(3))
    judge, shares = jnp.asarray(PAID, jnp.float32), jnp.array([0.25, 0.75])
    found = jax.jit(lambda *given: stages.roll(FORM, 400, paid, *given))(
        jnp.asarray(PROMPTS), shares, reference, judge, state
    )
    asked, told = np.asarray(found.prompt_ids)[:, 0], np.asarray(found.response_ids)
    assert 70 < (asked == 1).sum() < 130
    which = (told[:, None] == TOLD).all(axis=2).argmax(axis=1)
    np.testing.assert_allclose(found.scores, np.where(asked == 1, PAID[which], PAID[::-1][which]))
    for policy, logprobs in ((tuned, found.logprobs), (reference, found.ref_logprobs)):
        expected = np.log(law(policy))[asked - 1, which]
        np.testing.assert_allclose(np.asarray(logprobs).sum(axis=1), expected, atol=1e-4)
    shown = np.bincount(which[asked == 2], minlength=7) / (asked == 2).sum()
    np.testing.assert_allclose(shown, law(tuned)[1], atol=0.08)


def test_every_response_is_listed() -> None:
    every = {tuple(row) for row in itertools.product(range(3), repeat=2)}
    shown = {tuple(np.where(stages.mask_of(np.array(row)), row, 0)) for row in every}
    assert shown == {tuple(row) for row in TOLD}
