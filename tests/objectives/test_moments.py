import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.objectives.moments import add_batch, deviation, no_moments


def test_batch_by_batch_as_numpy_has_it_of_all_at_once():
    random = np.random.default_rng(0)
    moments, kept = no_moments(), []
    for size, centre in ((7, 50.0), (1, -3.0), (30, 51.0), (4, 0.0)):
        batch = (centre + random.normal(size=(size, 3))).astype(np.float32)
        mask = random.random(batch.shape) < 0.7
        moments = add_batch(moments, jnp.asarray(np.where(mask, batch, np.nan)), jnp.asarray(mask))
        kept.append(batch[mask])
        seen = np.concatenate(kept)
        assert float(moments.seen) == len(seen)
        assert float(moments.mean) == pytest.approx(seen.mean(), rel=1e-5)
        assert float(deviation(moments)) == pytest.approx(seen.std(), rel=1e-5)


def test_nothing_seen_changes_nothing():
    moments = no_moments()
    assert float(deviation(moments)) == 1.0
    after = add_batch(moments, jnp.full(3, jnp.nan), jnp.zeros(3, bool))
    np.testing.assert_array_equal(np.array(after), np.array(moments))
    some = add_batch(moments, jnp.array([1.0, 3.0]), jnp.ones(2, bool))
    np.testing.assert_array_equal(np.array(add_batch(some, jnp.ones(2), jnp.zeros(2, bool))), np.array(some))
    assert float(deviation(some)) == 1.0


def test_equal_numbers_do_not_divide_by_zero():
    assert float(deviation(add_batch(no_moments(), jnp.full(5, 2.0), jnp.ones(5, bool)))) == pytest.approx(1e-6)
