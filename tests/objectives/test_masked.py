import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.masked import masked_mean, masked_sum, masked_whiten

# kept: 1, 4, 5, 6
X = np.array([[1.0, np.nan, 4.0], [5.0, 6.0, np.inf]], np.float32)
MASK = np.array([[True, False, True], [True, True, False]])
KEPT = np.array([1.0, 4.0, 5.0, 6.0])


def test_sum_and_mean_by_hand():
    assert float(masked_sum(jnp.asarray(X), jnp.asarray(MASK))) == 16.0
    assert float(masked_mean(jnp.asarray(X), jnp.asarray(MASK))) == 4.0


def test_nothing_kept_is_zero():
    nothing = jnp.zeros((2, 3), bool)
    assert float(masked_mean(jnp.asarray(X), nothing)) == 0.0
    np.testing.assert_array_equal(masked_whiten(jnp.asarray(X), nothing), np.zeros((2, 3)))


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_against_numpy(shift_mean):
    whitened = np.asarray(masked_whiten(jnp.asarray(X), jnp.asarray(MASK), shift_mean=shift_mean))
    expected = (KEPT - KEPT.mean()) / np.sqrt(KEPT.var() + 1e-8) + (0.0 if shift_mean else KEPT.mean())
    np.testing.assert_allclose(whitened[MASK], expected, rtol=1e-5)
    np.testing.assert_array_equal(whitened[~MASK], (0.0, 0.0))
    # mean 4, variance (9 + 0 + 1 + 4) / 4 = 3.5
    assert whitened[0, 0] == pytest.approx(-3 / 3.5**0.5 + (0 if shift_mean else 4), rel=1e-5)


@pytest.mark.parametrize("function", [masked_sum, masked_mean, lambda x, mask: jnp.sum(masked_whiten(x, mask) ** 3)])
def test_masked_entries_get_no_gradient_and_spoil_none(function):
    gradient = np.asarray(jax.grad(function)(jnp.asarray(X), jnp.asarray(MASK)))
    clean = np.asarray(jax.grad(function)(jnp.asarray(np.where(MASK, X, 0.0)), jnp.asarray(MASK)))
    assert np.all(gradient[~MASK] == 0.0)
    np.testing.assert_array_equal(gradient, clean)
    assert np.any(gradient[MASK] != 0.0)


def test_the_gradient_of_a_mean_is_spread_over_what_is_kept():
    gradient = jax.grad(masked_mean)(jnp.asarray(X), jnp.asarray(MASK))
    np.testing.assert_array_equal(gradient, np.where(MASK, 0.25, 0.0))
