"""Verdicts, scores and centring: by hand, against optax, and where two forms must meet."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy.special import expit

from rlhf_jax.objectives.numeric import centering_loss, label_loss, score_loss

REWARDS = np.array([[0.5, -1.0, 2.0], [0.25, 3.0, -0.75]])
MASK = np.array([[True, True, False], [True, True, True]])
LABELS = np.array([[1.0, 0.0, 1.0], [0.3, 1.0, 0.5]])
SCORES = np.array([[0.4, 1.0, 9.0], [0.25, 0.0, -1.0]])


def labels_of(rewards, labels, mask, bounded=False, dtype=jnp.float32):
    return label_loss(
        rewards=jnp.asarray(rewards, dtype),
        labels=jnp.asarray(labels, dtype),
        mask=jnp.asarray(mask),
        bounded=bounded,
    )


def scores_of(rewards, scores, mask, huber=0.0, dtype=jnp.float32):
    return score_loss(
        rewards=jnp.asarray(rewards, dtype), scores=jnp.asarray(scores, dtype), mask=jnp.asarray(mask), huber=huber
    )


def centred(rewards, mask, centre=0.0, dtype=jnp.float32):
    return centering_loss(rewards=jnp.asarray(rewards, dtype), mask=jnp.asarray(mask), centre=centre)


def gradient(function, rewards, dtype=jnp.float32, **settings):
    slope = jax.grad(lambda r: function(r, dtype=dtype, **settings))(jnp.asarray(rewards, dtype))
    return np.asarray(slope, np.float64)


# ------------------------------------------------------------------------------ verdicts


def test_verdicts_by_hand() -> None:
    # P(good) = 3/4 and 1/5 from logits log 3 and -log 4; verdicts good and bad
    rewards = np.log([3.0, 0.25])
    expected = -(math.log(0.75) + math.log(0.8)) / 2
    both = np.ones(2, bool)
    assert float(labels_of(rewards, (1.0, 0.0), both)) == pytest.approx(expected, rel=1e-6)
    assert float(labels_of((0.75, 0.2), (1.0, 0.0), both, bounded=True)) == pytest.approx(expected, rel=1e-6)
    # the slope of a logit is (probability - verdict) / responses
    found = gradient(labels_of, rewards, labels=(1.0, 0.0), mask=both)
    np.testing.assert_allclose(found, [(0.75 - 1) / 2, 0.2 / 2], rtol=1e-5)


@pytest.mark.parametrize("row", [0, 1])
def test_verdicts_are_the_cross_entropy_of_optax(row: int) -> None:
    rewards, labels, mask = REWARDS[row], LABELS[row], MASK[row]
    each = optax.losses.sigmoid_binary_cross_entropy(jnp.asarray(rewards), jnp.asarray(labels))
    expected = float(np.asarray(each)[mask].mean())
    assert float(labels_of(rewards, labels, mask)) == pytest.approx(expected, rel=1e-5)
    assert float(labels_of(expit(rewards), labels, mask, bounded=True)) == pytest.approx(expected, rel=1e-5)


def test_the_best_reward_of_a_doubtful_verdict_is_its_probability() -> None:
    found = gradient(labels_of, (0.3, 0.31, 0.29), labels=(0.3,) * 3, mask=(True,) * 3, bounded=True)
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[2] < 0 < found[1]


# ------------------------------------------------------------------------------ scores


def test_scores_by_hand() -> None:
    # errors .5, -3, 1: squares .125, 4.5, .5; linear beyond 1: .125, 3 - .5, .5
    rewards, scores, mask = (0.5, -1.0, 2.0), (0.0, 2.0, 1.0), (True,) * 3
    assert float(scores_of(rewards, scores, mask)) == pytest.approx(5.125 / 3, rel=1e-6)
    assert float(scores_of(rewards, scores, mask, huber=1.0)) == pytest.approx(3.125 / 3, rel=1e-6)
    found = gradient(scores_of, rewards, scores=scores, mask=mask, huber=1.0)
    np.testing.assert_allclose(found, np.array([0.5, -1.0, 1.0]) / 3, rtol=1e-6)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("huber", [0.1, 0.75, 2.0])
def test_scores_are_the_huber_loss_of_optax(row: int, huber: float) -> None:
    each = optax.losses.huber_loss(jnp.asarray(REWARDS[row]), jnp.asarray(SCORES[row]), delta=huber)
    expected = float(np.asarray(each)[MASK[row]].mean())
    assert float(scores_of(REWARDS[row], SCORES[row], MASK[row], huber)) == pytest.approx(expected, rel=1e-5)


def test_a_huber_loss_that_never_becomes_linear_is_squares() -> None:
    for row in range(2):
        squares = float(scores_of(REWARDS[row], SCORES[row], MASK[row]))
        errors = (REWARDS[row] - SCORES[row])[MASK[row]]
        assert squares == pytest.approx(float(np.mean(errors**2) / 2), rel=1e-6)
        assert float(scores_of(REWARDS[row], SCORES[row], MASK[row], huber=100.0)) == pytest.approx(squares, rel=1e-6)


# ------------------------------------------------------------------------------ the centre


def test_the_centre_of_a_pair_is_the_square_of_its_sum() -> None:
    """The form of the source; both rewards are pulled alike, by 2 (r_1 + r_2)."""
    for pair in ((0.5, -0.25), (3.0, 1.0)):
        assert float(centred(pair, (True, True))) == pytest.approx(sum(pair) ** 2, rel=1e-6)
        np.testing.assert_allclose(gradient(centred, pair, mask=(True, True)), 2 * sum(pair), rtol=1e-6)


def test_the_centre_by_hand() -> None:
    # mean of .2, .6, .7 is .5; twice its distance from .25, squared
    assert float(centred((0.2, 0.6, 0.7, 99.0), (True, True, True, False), 0.25)) == pytest.approx(0.25, rel=1e-6)
    assert float(centred((0.2, 0.6, 0.7), (True,) * 3, 0.5)) == pytest.approx(0, abs=1e-12)


# ------------------------------------------------------------------------------ all of them

LOSSES = {
    "labels": (labels_of, {"labels": (1.0, 0.5, 0.0, 1.0)}),
    "labels in [0, 1]": (labels_of, {"labels": (1.0, 0.5, 0.0, 1.0), "bounded": True}),
    "scores": (scores_of, {"scores": (1.0, 0.5, 0.0, 1.0)}),
    "huber": (scores_of, {"scores": (1.0, 0.5, 0.0, 1.0), "huber": 0.5}),
    "centre": (centred, {"centre": 0.5}),
}
every = pytest.mark.parametrize("name", LOSSES)


@every
@pytest.mark.parametrize("missing", [0.4, math.nan, math.inf, -math.inf])
def test_what_was_not_judged_may_hold_anything(name: str, missing: float) -> None:
    function, settings = LOSSES[name]
    mask = (True, False, True, True)
    changed = dict(settings)
    for key in ("labels", "scores"):
        if key in settings:
            changed[key] = (settings[key][0], math.nan, *settings[key][2:])
    clean, dirty = (0.2, 0.4, 0.7, 0.9), (0.2, missing, 0.7, 0.9)
    assert float(function(dirty, mask=mask, **changed)) == pytest.approx(float(function(clean, mask=mask, **settings)))
    found = gradient(function, dirty, mask=mask, **changed)
    assert found[1] == 0
    np.testing.assert_allclose(found, gradient(function, clean, mask=mask, **settings), rtol=1e-6)


@every
def test_without_a_verdict_there_is_neither_loss_nor_pull(name: str) -> None:
    function, settings = LOSSES[name]
    rewards, mask = (0.2, math.nan, 0.7, 0.9), (False,) * 4
    assert float(function(rewards, mask=mask, **settings)) == 0.0
    np.testing.assert_array_equal(gradient(function, rewards, mask=mask, **settings), np.zeros(4))


@every
def test_padding_and_the_order_of_the_responses_do_not_count(name: str) -> None:
    function, settings = LOSSES[name]
    rewards, mask, place = np.array([0.2, 0.4, 0.7, 0.9]), np.array([True, True, False, True]), np.array([2, 3, 1, 0])
    expected = float(function(rewards, mask=mask, **settings))
    lists = {key: np.asarray(value) for key, value in settings.items() if isinstance(value, tuple)}
    rest = {key: value for key, value in settings.items() if key not in lists}
    mixed = {key: value[place] for key, value in lists.items()}
    longer = {key: np.pad(value, (0, 3), constant_values=7.0) for key, value in lists.items()}
    assert float(function(rewards[place], mask=mask[place], **mixed, **rest)) == pytest.approx(expected, rel=1e-6)
    assert float(function(np.pad(rewards, (0, 3)), mask=np.pad(mask, (0, 3)), **longer, **rest)) == pytest.approx(
        expected, rel=1e-6
    )


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_rewards_stay_finite(name: str, dtype: jnp.dtype) -> None:
    function, settings = LOSSES[name]
    bounded = settings.get("bounded", False)
    rewards = (0.0, 1.0, 1.0, 0.0) if bounded else (1e4, -1e4, 1e4, -1e4)
    mask = (True,) * 4
    assert np.isfinite(float(function(rewards, mask=mask, dtype=dtype, **settings)))
    assert np.all(np.isfinite(gradient(function, rewards, dtype, mask=mask, **settings)))
    if bounded:  # and wrong verdicts at the ends cost much
        assert float(function(rewards, mask=mask, dtype=dtype, **settings)) > 2


@every
def test_the_gradient_is_that_of_the_loss(name: str) -> None:
    function, settings = LOSSES[name]
    with jax.enable_x64(True):
        rewards = jnp.array([0.2, 0.4, 0.7, 0.85])
        check_grads(
            lambda r: function(r, mask=(True, True, False, True), dtype=jnp.float64, **settings),
            (rewards,),
            order=1,
            modes=["rev"],
        )
