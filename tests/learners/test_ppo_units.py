"""One price of divergence in one unit: advantages and loss together have the true gradient, by exact enumeration.

A bandit with three arms. Its rollout holds every outcome of a group of episodes as often as it is likely, so that
sums over the rollout are expectations, and moments over it are those of the law.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import ppo
from rlhf_jax.objectives.divergences import Divergence, ForwardKL, ReverseKL
from rlhf_jax.objectives.regularisers import Regulariser, loss_penalty
from rlhf_jax.types import Rollout
from tests.learners import tiny

POLICY, REFERENCE = np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.3, 0.4])
REWARDS, BETA = np.array([0.6, 0.4, 0.2]), 0.2
BOTH = Regulariser(estimator="k3", placement="both")
WHITE = ppo.RewardRules(whiten=True)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def everything(group: int) -> tuple[Rollout, np.ndarray]:
    """(a rollout of all groups of arms, each as often as it is likely, its arms)."""
    counts = [
        (arms, round(10**group * np.prod(POLICY[list(arms)]))) for arms in itertools.product(range(3), repeat=group)
    ]
    arms = np.concatenate([np.tile(arms, count) for arms, count in counts]).astype(int)
    rows = np.arange(len(arms))
    one = np.ones((len(arms), 1), bool)
    rollout = Rollout(
        prompt_ids=one.astype(np.int32),
        prompt_mask=one,
        response_ids=arms[:, None].astype(np.int32),
        response_mask=one,
        logprobs=np.log(POLICY)[arms][:, None],
        ref_logprobs=np.log(REFERENCE)[arms][:, None],
        values=np.zeros(one.shape),
        scores=REWARDS[arms],
        raw_scores=REWARDS[arms],
        index=rows.astype(np.int32),
    )
    return jax.tree.map(jnp.asarray, rollout), arms


def true_gradient(divergence: Divergence) -> np.ndarray:
    """Of mean reward - beta D_f(policy || reference) by the logits, by the derivative of its definition."""

    def objective(logits: jax.Array) -> jax.Array:
        policy = jax.nn.softmax(logits)
        log_ratio = jnp.log(policy / REFERENCE)
        return policy @ (REWARDS - BETA * divergence.per_sample(log_ratio))

    return np.asarray(jax.grad(objective)(jnp.log(POLICY)))


def whole_gradient(**settings: Any) -> np.ndarray:
    """Minus the gradient of the loss at the policy that sampled: surrogate and penalty at the prices of the learner."""
    regulariser = settings.pop("regulariser")
    spec = tiny.ppo_spec(gamma=1.0, lambda_=1.0, kl=ppo.KLSpec(BETA, regulariser=regulariser), **settings)
    rollout, arms = everything(spec.group)
    found = ppo.targets(spec, rollout, jnp.float64(BETA))
    price = ppo.loss_price(spec, jnp.float64(BETA), found)

    def loss(logits: jax.Array) -> jax.Array:
        logprobs = jax.nn.log_softmax(logits)[arms][:, None]
        ratios = jnp.exp(logprobs - rollout.logprobs)
        penalties = jax.vmap(lambda *rows: _penalty(regulariser, *rows))(
            logprobs, rollout.ref_logprobs, rollout.logprobs, rollout.response_mask
        )
        return jnp.mean(-ratios * found.advantages + price * penalties)

    return -np.asarray(jax.grad(loss)(jnp.log(POLICY)))


def _penalty(spec: Regulariser, logprobs: Any, ref_logprobs: Any, old_logprobs: Any, mask: Any) -> Any:
    return loss_penalty(spec, logprobs=logprobs, ref_logprobs=ref_logprobs, old_logprobs=old_logprobs, mask=mask)


CASES = {
    "gae, both": {"regulariser": BOTH},
    "gae, both, whitened rewards": {"regulariser": BOTH, "rewards": WHITE},
    "gae, both, nothing whitened": {"regulariser": BOTH, "whiten_advantages": False},
    "gae, forward, whitened rewards": {"regulariser": Regulariser(ForwardKL()), "rewards": WHITE},
    "dr_grpo, forward": {"regulariser": Regulariser(ForwardKL()), "advantage": "dr_grpo", "group": 2},
    "dr_grpo, forward, whitened rewards": {
        "regulariser": Regulariser(ForwardKL()), "advantage": "dr_grpo", "group": 2, "rewards": WHITE,
    },
    "dr_grpo, both": {"regulariser": BOTH, "advantage": "dr_grpo", "group": 2},
    "rloo, both, whitened rewards": {"regulariser": BOTH, "advantage": "rloo", "group": 2, "rewards": WHITE},
    "reinforce_pp, both": {"regulariser": BOTH, "advantage": "reinforce_pp"},
    "reinforce_pp, both, less the group": {
        "regulariser": BOTH, "advantage": "reinforce_pp", "group": 2, "group_baseline": True,
    },
    "reinforce_pp, forward, less the group": {
        "regulariser": Regulariser(ForwardKL()), "advantage": "reinforce_pp", "group": 2, "group_baseline": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_whole_gradient_is_along_the_true_one(case: str) -> None:
    settings = dict(CASES[case])
    if settings.get("advantage", "gae") != "gae":
        settings["value"] = None
    found, true = whole_gradient(**settings), true_gradient(settings["regulariser"].divergence)
    along = found @ true / (true @ true)
    assert along > 0.1
    np.testing.assert_allclose(found, along * true, atol=1e-6 * np.linalg.norm(found))


@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_a_price_in_the_loss_alone_stays_as_published(advantage: str) -> None:
    regulariser = dataclasses.replace(BOTH, placement="loss")
    changes = {"value": None, "group": 2} if advantage == "grpo" else {}
    spec = tiny.ppo_spec(advantage=advantage, kl=ppo.KLSpec(BETA, regulariser=regulariser), **changes)
    found = ppo.targets(spec, everything(2)[0], jnp.float64(BETA))
    assert ppo.loss_price(spec, jnp.float64(BETA), found) == BETA


def test_of_the_reverse_kl_the_two_halves_are_as_they_say() -> None:
    """The true gradient of the mean reward less the reverse KL, by hand: p (r - beta log p/ref - its mean)."""
    worth = REWARDS - BETA * np.log(POLICY / REFERENCE)
    np.testing.assert_allclose(true_gradient(ReverseKL()), POLICY * (worth - POLICY @ worth), atol=1e-12)
