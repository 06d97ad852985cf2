"""Episodes of a table: all responses of a batch step by step, on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.token_mdp.world import HORIZON
from rlhf_jax.theory.soft_control import Process


class Game(NamedTuple):
    """A process as device arrays; ``following`` is -1 where the episode ends."""

    following: Int[Array, "S V"]
    rewards: Float[Array, "S V"]
    log_reference: Float[Array, "S V"]
    log_start: Float[Array, "S"]


class Episodes(NamedTuple):
    """N responses: the state before each token, the token, whether there is one, and what it is paid."""

    states: Int[Array, "N R"]
    tokens: Int[Array, "N R"]
    mask: Bool[Array, "N R"]
    rewards: Float[Array, "N R"]


def make_game(process: Process) -> Game:
    """In float32."""
    with np.errstate(divide="ignore"):  # where nothing starts
        log_start = np.log(process.start)
    return Game(
        jnp.asarray(process.following, jnp.int32),
        jnp.asarray(process.rewards, jnp.float32),
        jnp.asarray(np.log(process.reference), jnp.float32),
        jnp.asarray(log_start, jnp.float32),
    )


def first_states(game: Game, key: jax.Array, count: int) -> Int[Array, "N"]:
    """Prompts, drawn by their probabilities."""
    return jax.random.categorical(key, game.log_start, shape=(count,))


def sample(game: Game, logits: Float[Array, "S V"], key: jax.Array, first: Int[Array, "N"]) -> Episodes:
    """One response of softmax(logits) to each prompt."""

    def turn(carry: tuple[Array, Array], key: jax.Array) -> tuple[tuple[Array, Array], Episodes]:
        state, alive = carry
        token = jax.random.categorical(key, logits[state])
        paid = jnp.where(alive, game.rewards[state, token], 0.0)
        after = game.following[state, token]
        seen = Episodes(state, token, alive, paid)
        return (jnp.where(after < 0, state, after), alive & (after >= 0)), seen

    _, seen = jax.lax.scan(turn, (first, jnp.ones(first.shape, bool)), jax.random.split(key, HORIZON))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), seen)


def logprobs(logits: Float[Array, "S V"], episodes: Episodes) -> Float[Array, "N R"]:
    """log p of each token in nats, 0 off the mask."""
    found = jax.nn.log_softmax(logits)[episodes.states, episodes.tokens]
    return jnp.where(episodes.mask, found, 0.0)
