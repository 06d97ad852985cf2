"""Fine-grained rewards: an example of two models by hand, sums, and the loss against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_expit

from rlhf_jax.objectives.numeric import label_loss
from rlhf_jax.objectives.segments import dense_rewards, paid_at_end, segment_losses, segment_values

F32 = jnp.float32


def test_two_models_of_different_levels_by_hand() -> None:
    """Seven tokens, a model of sub-sentences (weight 0.3) and one of the whole (weight 0.5), after Wu et al. 2023.

    Sub-sentences end with tokens 2 and 4, good (+1) and defective (-1); the whole ends with token 5 and is good.
    """
    ends = np.zeros((7, 2), np.float32)
    ends[[2, 4], 0] = ends[5, 1] = 1
    logits = np.full((7, 2), np.nan, np.float32)
    logits[2, 0], logits[4, 0], logits[5, 1] = 1.5, -0.2, 0.1
    values = jnp.where(ends > 0, segment_values(jnp.asarray(logits), "sign"), jnp.nan)
    rewards = dense_rewards(values=values, ends=jnp.asarray(ends), weights=jnp.array([0.3, 0.5], F32))
    np.testing.assert_allclose(rewards, [0, 0, 0.3, 0, -0.3, 0.5, 0], atol=1e-7)
    np.testing.assert_allclose(paid_at_end(rewards, jnp.arange(7) < 6), [0, 0, 0, 0, 0, 0.5, 0], atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_tokens_earn_what_the_segments_do_and_nothing_elsewhere(seed: int) -> None:
    random = np.random.default_rng(seed)
    aspects = [(float(random.normal()), random.normal(size=count), random.integers(0, 9, count)) for count in (1, 3, 7)]
    ends, values = np.zeros((9, 3), np.float32), random.normal(size=(9, 3)).astype(np.float32)
    total, earned = 0.0, np.zeros(9)
    for column, (weight, _, places) in enumerate(aspects):
        for place in places:  # the definition, one segment after the other
            ends[place, column] += 1
            earned[place] += weight * values[place, column]
            total += weight * values[place, column]
    weights = jnp.array([weight for weight, _, _ in aspects], F32)
    found = np.asarray(dense_rewards(values=jnp.asarray(values), ends=jnp.asarray(ends), weights=weights))
    np.testing.assert_allclose(found, earned, atol=1e-4)
    assert found.sum() == pytest.approx(total, abs=1e-4)
    assert not found[~ends.any(axis=1)].any()
    at_end = np.asarray(paid_at_end(jnp.asarray(found), jnp.ones(9, bool)))
    assert at_end[:-1].tolist() == [0] * 8
    assert at_end[-1] == pytest.approx(total, abs=1e-4)


def test_what_a_segment_is_worth() -> None:
    logits = jnp.array([-2.0, 0.0, 3.0], F32)
    assert segment_values(logits, "sign").tolist() == [-1, 1, 1]
    np.testing.assert_allclose(segment_values(logits, "probability"), 1 / (1 + np.exp([2.0, 0.0, -3.0])), rtol=1e-6)
    assert segment_values(logits, "logit").tolist() == [-2, 0, 3]
    assert segment_values(logits, "sign").dtype == logits.dtype


NAN = np.nan


def test_the_loss_is_a_mean_over_the_segments_of_each_aspect() -> None:
    labels = np.array([[NAN, 1, NAN], [0, NAN, NAN], [1, 0.25, NAN], [NAN, NAN, NAN]], np.float32)
    logits = np.array([[9, 2, 9], [-1, np.inf, 0], [0.5, 3, NAN], [NAN, 0, 0]], np.float32)
    losses, there = segment_losses(logits=jnp.asarray(logits), labels=jnp.asarray(labels))
    wanted = [
        -(log_expit(1.0) + log_expit(0.5)) / 2,
        -(log_expit(2.0) + 0.25 * log_expit(3.0) + 0.75 * log_expit(-3.0)) / 2,
        0.0,
    ]
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    assert there.tolist() == [True, True, False]
    gradient = jax.grad(lambda x: jnp.sum(segment_losses(logits=x, labels=jnp.asarray(labels))[0]))(jnp.asarray(logits))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[np.isnan(labels)].any()


def test_one_segment_is_the_ordinary_loss_of_a_label() -> None:
    labels = np.full((5, 1), NAN, np.float32)
    labels[4] = 0.75
    logits = np.arange(5, dtype=np.float32)[:, None]
    losses, _ = segment_losses(logits=jnp.asarray(logits), labels=jnp.asarray(labels))
    whole = label_loss(rewards=jnp.array([4.0]), labels=jnp.array([0.75]), mask=jnp.array([True]), bounded=False)
    assert losses[0] == whole
