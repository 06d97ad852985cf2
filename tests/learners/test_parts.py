"""Rows that are worked on in parts."""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.learners.step import _sum_over_parts


def test_rows_of_two_lengths_are_each_split_by_their_own() -> None:
    """As episodes and the demonstrations beside them: in part i are the rows i, i + parts, ... of both."""

    def together(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        episodes, demonstrations = batch
        return jnp.zeros((8, 6)).at[episodes[:, None], demonstrations[None, :]].set(1.0)

    met = _sum_over_parts(together, (jnp.arange(8), jnp.arange(6)), 2, None)
    wanted = np.equal.outer(np.arange(8) % 2, np.arange(6) % 2)
    np.testing.assert_array_equal(np.asarray(met), wanted)
