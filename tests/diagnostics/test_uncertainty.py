"""Which of two responses is better: entropies by hand."""

import numpy as np
import pytest

from rlhf_jax.diagnostics.uncertainty import pair_uncertainty


def test_equal_rewards_are_a_coin():
    np.testing.assert_allclose(pair_uncertainty(np.zeros((2, 3))), np.log(2))


def test_one_member_by_hand():
    gap = np.log(3.0)  # sigmoid 3/4
    found = pair_uncertainty(np.array([[gap], [0.0]]))
    assert found[0, 1] == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert found[1, 0] == pytest.approx(found[0, 1])


def test_members_that_contradict_each_other_are_unsure_together():
    sure = np.array([[9.0], [0.0]])
    assert pair_uncertainty(sure)[0, 1] < 0.002
    assert pair_uncertainty(np.array([[9.0, 0.0], [0.0, 9.0]]))[0, 1] == pytest.approx(np.log(2))
    assert pair_uncertainty(np.repeat(sure, 2, axis=1))[0, 1] == pytest.approx(pair_uncertainty(sure)[0, 1])
