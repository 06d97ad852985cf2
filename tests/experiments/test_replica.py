"""The paper's experiment in small: a network that sees length and prompt type finds every best reward of the tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

from experiments.reward_collapse.lists import KEPT
from experiments.reward_collapse.sweep import COMMON, UTILITIES
from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import Utility, make_utility, unit_range

TYPES = ("open", "closed")
STEPS = 3000
# The best rewards of eight responses, the worst first; found by an independent solver in 40 digits.
TWO_POINTS = (0, 0, 0, 0, 1, 1, 1, 1)
SPREAD = (0, 0.089133, 0.241260, 0.412028, 0.587972, 0.758740, 0.910867, 1)
BEST = {
    "linear": (TWO_POINTS, TWO_POINTS),
    "log": ((0, 0, 0.146304, 0.372788, 0.627212, 0.853696, 1, 1),) * 2,
    "inverse": (SPREAD, SPREAD),
    "log_sigmoid": ((0, 0, 0.195167, 0.400041, 0.599959, 0.804833, 1, 1),) * 2,
    "prompt_aware": (SPREAD, TWO_POINTS),
}


def _forward(params: list[tuple[Array, Array]], features: Float[Array, "P K F"]) -> Float[Array, "P K"]:
    hidden = features
    for weight, bias in params[:-1]:
        hidden = jnp.tanh(hidden @ weight + bias)
    weight, bias = params[-1]
    return jax.nn.sigmoid((hidden @ weight + bias)[..., 0])


@functools.cache
def replica(name: str) -> Float[np.ndarray, "P K"]:
    """Rewards of the eight lengths, shortest first, of one open and one closed prompt."""
    everywhere, closed = UTILITIES[name]
    utilities: list[Utility] = [make_utility(one, **given) for one, given in (everywhere, closed or everywhere)]
    scales = [unit_range(own) for own in utilities]
    lengths = jnp.array([sorted(KEPT[kind]) for kind in TYPES], jnp.float32) / 40.0 - 1.0
    sides = jnp.broadcast_to(jnp.array([[-1.0], [1.0]]), lengths.shape)
    features = jnp.stack([lengths, sides, lengths * sides], axis=-1)
    ranks, everything = jnp.arange(8)[::-1], jnp.ones(8, bool)
    sizes = (3, 48, 48, 1)
    keys = jax.random.split(jax.random.key(0), 3)
    params = [
        (jax.random.normal(key, (a, b)) / np.sqrt(a), jnp.zeros(b))
        for key, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS, 0.02))

    def loss(params: list[tuple[Array, Array]]) -> Float[Array, ""]:
        rewards = _forward(params, features)
        each = [
            ranked_utility_loss(rewards=rewards[place], ranks=ranks, mask=everything, utility=own) / scales[place]
            for place, own in enumerate(utilities)
        ]
        return jnp.stack(each).sum()

    def step(carry: tuple[object, object], _: None) -> tuple[tuple[object, object], None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, length=STEPS))(params)
    return np.asarray(_forward(params, features))


@pytest.mark.parametrize("name", UTILITIES)
def test_both_types_reach_the_best_rewards(name: str) -> None:
    np.testing.assert_allclose(replica(name), BEST[name], atol=0.01)


def test_types_collapse_under_one_utility_and_part_under_two() -> None:
    apart = {name: float(np.abs(np.sort(replica(name)[0]) - np.sort(replica(name)[1])).mean()) for name in UTILITIES}
    assert max(apart[name] for name in COMMON) < 0.005
    assert apart["prompt_aware"] > 0.15
