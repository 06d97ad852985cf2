import jax.numpy as jnp
import numpy as np

from rlhf_jax.models import positions_of
from rlhf_jax.models.masks import segment_mask, window_mask


def test_positions_count_the_real_tokens_before():
    mask = jnp.array([[True, True, True, False], [False, False, True, True], [False] * 4])
    np.testing.assert_array_equal(np.asarray(positions_of(mask))[mask], (0, 1, 2, 0, 1))
    assert np.all(np.asarray(positions_of(mask)) >= 0)


def test_segment_mask_by_hand():
    # segments 1 1 2 0: the third token starts anew, the padding sees and is seen by nobody
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(segment_mask(jnp.array([[1, 1, 2, 0]]))[0], np.array(expected, bool))


def test_window_mask_by_hand():
    # slot 1 is padding and takes no place in a window of 2
    expected = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]]
    found = window_mask(segment_mask(jnp.array([[1, 0, 1, 1]])), 2)
    np.testing.assert_array_equal(found[0], np.array(expected, bool))


def test_a_window_is_a_distance_between_positions_in_packed_rows():
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0]])
    positions = np.array([0, 1, 2, 3, 0, 1, 2, 0])
    inside = positions[:, None] - positions[None, :] < 3
    np.testing.assert_array_equal(window_mask(segment_mask(segments), 3)[0], segment_mask(segments)[0] & inside)
