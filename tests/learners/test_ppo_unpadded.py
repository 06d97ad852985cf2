"""The loss of a minibatch by the real tokens of its episodes alone is that by all slots, and so are its gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import ppo
from rlhf_jax.learners.step import LossSums
from rlhf_jax.objectives.divergences import ReverseKL
from rlhf_jax.objectives.regularisers import Regulariser
from rlhf_jax.unpadding import ALL, Room
from tests.learners import tiny

EXACT = ppo.KLSpec(coefficient=0.1, regulariser=Regulariser(ReverseKL(), "exact", "loss"))
WAYS = {
    "separate": {"entropy": 0.01, "rewards": ppo.RewardRules(score_at="after")},
    "shared": {"shared": True, "kl": EXACT, "mask_unfinished": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_changes_but_what_is_worked_on(way: str) -> None:
    spec, rollout, params = tiny.ppo_spec(**WAYS[way]), tiny.fixed_rollout(0), tiny.actors()
    found = ppo.targets(spec, rollout, jnp.float32(0.1))
    batch = ppo.with_weights(spec, ppo.episodes_of(spec, rollout, found), None)
    reference = jax.tree.map(lambda leaf: 0.9 * leaf, params["policy"]) if spec.shared else None

    def loss(room: Room, params: Any) -> tuple[jax.Array, LossSums]:
        sums = ppo.loss_sums(spec, params, batch, 0.1, reference, room)
        return sums.numerator, sums

    whole = int(batch.mask.sum()), int(batch.response_mask.sum())
    assert whole[0] < batch.mask.size
    assert whole[1] < batch.response_mask.size
    (_, plain), expected = jax.jit(jax.value_and_grad(partial(loss, ALL), has_aux=True))(params)
    (_, sums), gradients = jax.jit(jax.value_and_grad(partial(loss, Room(*whole)), has_aux=True))(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), sums, plain)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradients, expected)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 1.0
