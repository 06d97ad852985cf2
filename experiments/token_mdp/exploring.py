"""Exploration and exploitation: Q-learning without a price, by different ways to choose the next token.

Ending at once pays 0.3, one response of three words pays 1, all else nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.token_mdp.episodes import Game, make_game
from experiments.token_mdp.sweep import BEHAVIOURS, EXPLORING_EVERY, EXPLORING_RECORDS, EXPLORING_SEEDS
from experiments.token_mdp.world import EOS, PROMPTS, VOCAB, make_process, prefixes
from rlhf_jax.theory.soft_control import Process

LENGTH = 3
SAFE = 0.3
BEST = (2, 3, 4)
RATE = 0.5  # of Q-learning


def make_trap() -> Process:
    """The first prompt alone."""
    tree = make_process("token", horizon=LENGTH)
    place = {prefix: state for state, prefix in enumerate(prefixes(LENGTH))}
    rewards = np.zeros_like(tree.rewards)
    rewards[0, EOS] = SAFE
    rewards[place[(PROMPTS[0], *BEST[:-1])], BEST[-1]] = 1.0
    start = (np.arange(len(tree.start)) == 0).astype(float)
    return Process(tree.following, rewards, np.full(rewards.shape, 1.0 / VOCAB), start)


def episode(
    game: Game, q: Float[Array, "S V"], behaviour: Float[Array, "2"], key: jax.Array
) -> tuple[Float[Array, "S V"], Float[Array, ""]]:
    """Action values after one episode that updates them at every token, and what it was paid."""
    epsilon, temperature = behaviour
    state, alive, total = jnp.int32(0), jnp.bool_(True), jnp.float32(0.0)
    for token_key in jax.random.split(key, LENGTH):
        law = (1 - epsilon) * jax.nn.softmax(q[state] / temperature) + epsilon / VOCAB
        token = jax.random.categorical(token_key, jnp.log(law))
        after = game.following[state, token]
        reward = game.rewards[state, token]
        target = reward + jnp.where(after < 0, 0.0, q[after].max())
        q = q.at[state, token].add(jnp.where(alive, RATE * (target - q[state, token]), 0.0))
        total += jnp.where(alive, reward, 0.0)
        state, alive = jnp.maximum(after, 0), alive & (after >= 0)
    return q, total


def follow(game: Game, q: Float[Array, "S V"]) -> Float[Array, ""]:
    """What the response of the largest action values is paid; of equal ones the first."""
    state, alive, total = jnp.int32(0), jnp.bool_(True), jnp.float32(0.0)
    for _ in range(LENGTH):
        token = jnp.argmax(q[state])
        total += jnp.where(alive, game.rewards[state, token], 0.0)
        after = game.following[state, token]
        state, alive = jnp.maximum(after, 0), alive & (after >= 0)
    return total


def explore(seeds: int = EXPLORING_SEEDS, records: int = EXPLORING_RECORDS) -> dict[str, dict[str, list[float]]]:
    """Behaviour -> by record, means over seeds: ``found``, the share whose greedy response is the best one; ``value``,
    what the greedy response is paid; ``earned``, what an episode was paid while learning, since the last record.
    """
    game = make_game(make_trap())

    @jax.jit
    @jax.vmap
    def one(behaviour: Float[Array, "2"], key: jax.Array) -> tuple[Array, Array]:
        def record(q: Array, keys: jax.Array) -> tuple[Array, tuple[Array, Array]]:
            q, earned = jax.lax.scan(lambda q, key: episode(game, q, behaviour, key), q, keys)
            return q, (follow(game, q), earned.mean())

        keys = jax.random.split(key, (records, EXPLORING_EVERY))
        return jax.lax.scan(record, jnp.zeros_like(game.rewards), keys)[1]

    behaviours = jnp.repeat(jnp.asarray(list(BEHAVIOURS.values())), seeds, axis=0)
    keys = jax.random.split(jax.random.key(0), len(behaviours))
    followed, earned = (np.asarray(x, float).reshape(len(BEHAVIOURS), seeds, records) for x in one(behaviours, keys))
    return {
        name: {
            "found": (followed[place] > 0.99).mean(axis=0).tolist(),
            "value": followed[place].mean(axis=0).tolist(),
            "earned": earned[place].mean(axis=0).tolist(),
        }
        for place, name in enumerate(BEHAVIOURS)
    }
