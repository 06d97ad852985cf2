"""The objectives side by side on tables: one number a state and token, one update rule each, the same optimizer.

Value: the Bellman equations by regression (``soft_q``, ``value``). Reward: policy gradients (``gradient``, ``ppo``).
Likelihood of good actions: imitation of chosen responses of the reference (``best_of_n``, ``filtered``).
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.token_mdp.episodes import Episodes, Game, first_states, logprobs, make_game, sample
from experiments.token_mdp.exact import bars
from experiments.token_mdp.sweep import BEST_OF, KEPT_SHARE
from experiments.token_mdp.world import BETA
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.objectives.advantages import generalized_advantages, token_rewards
from rlhf_jax.objectives.masked import masked_mean, masked_whiten
from rlhf_jax.objectives.ppo import clipped_policy_loss, clipped_value_loss
from rlhf_jax.theory.soft_control import Process

Tables: TypeAlias = dict[str, Array]
Loss: TypeAlias = Callable[[Tables, Any], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a learner goes about it: ``epochs`` and ``minibatches`` of each batch of ``episodes``; the task's gamma."""

    learner: str
    gamma: float = 1.0
    episodes: int = 512
    epochs: int = 1
    minibatches: int = 1
    learning_rate: float = 0.03
    schedule: Literal["cosine", "constant"] = "cosine"
    critic: bool = True
    whiten: bool = False
    lambda_: float = 0.95
    clip: float = 0.2
    value_coefficient: float = 1.0


def paid(game: Game, tables: Tables, episodes: Episodes) -> Float[Array, "N R"]:
    """What PPO is paid: the task's reward of each token less beta nats, by the project's own rule."""
    price = jax.vmap(partial(token_rewards, score=jnp.float32(0.0), kl_coefficient=jnp.float32(BETA)))
    prices = price(
        logprobs=logprobs(tables["policy"], episodes),
        ref_logprobs=logprobs(game.log_reference, episodes),
        mask=episodes.mask,
    )
    return prices + episodes.rewards


def on_policy_batch(rule: Rule, game: Game, tables: Tables, key: jax.Array) -> dict[str, Any]:
    """Episodes of the policy with advantages and returns; without a critic the values are 0."""
    first_key, key = jax.random.split(key)
    episodes = sample(game, tables["policy"], key, first_states(game, first_key, rule.episodes))
    values = jnp.where(episodes.mask, tables["value"][episodes.states], 0.0) * rule.critic
    advantages = jax.vmap(partial(generalized_advantages, gamma=rule.gamma, lambda_=rule.lambda_))(
        rewards=paid(game, tables, episodes), values=values, mask=episodes.mask
    )
    returns = advantages + values
    if rule.whiten:
        advantages = masked_whiten(advantages, episodes.mask)
    old = logprobs(tables["policy"], episodes)
    return {"episodes": episodes, "advantages": advantages, "returns": returns, "values": values, "logprobs": old}


def on_policy_loss(rule: Rule, tables: Tables, batch: dict[str, Any]) -> Float[Array, ""]:
    """The clipped surrogate and, with a critic, the clipped value loss; means over tokens."""
    episodes: Episodes = batch["episodes"]
    policy = jax.vmap(partial(clipped_policy_loss, clip=rule.clip))(
        logprobs=logprobs(tables["policy"], episodes), old_logprobs=batch["logprobs"], advantages=batch["advantages"]
    )
    value = jax.vmap(partial(clipped_value_loss, clip=rule.clip))(
        values=tables["value"][episodes.states], old_values=batch["values"], returns=batch["returns"]
    )
    terms = [] if rule.learner == "value" else [masked_mean(policy, episodes.mask)]
    terms += [rule.value_coefficient * masked_mean(value, episodes.mask)] if rule.critic else []
    return jnp.sum(jnp.stack(terms))


def soft_q_batch(rule: Rule, game: Game, tables: Tables, key: jax.Array) -> dict[str, Any]:
    """Episodes of the policy that the action values stand for, and r + gamma V(s') of each token."""
    first_key, key = jax.random.split(key)
    episodes = sample(game, policy_logits(game, tables), key, first_states(game, first_key, rule.episodes))
    values = BETA * jax.nn.logsumexp(policy_logits(game, tables), axis=1)
    after = game.following[episodes.states, episodes.tokens]
    targets = episodes.rewards + rule.gamma * jnp.where(after < 0, 0.0, values[after])
    return {"episodes": episodes, "targets": targets}


def soft_q_loss(tables: Tables, batch: dict[str, Any]) -> Float[Array, ""]:
    """Half the squared error of the action values met."""
    episodes: Episodes = batch["episodes"]
    errors = optax.l2_loss(tables["action_value"][episodes.states, episodes.tokens], batch["targets"])
    return masked_mean(errors, episodes.mask)


def imitation_batch(rule: Rule, game: Game, tables: Tables, key: jax.Array, bar: Float[Array, "S"]) -> dict[str, Any]:
    """Chosen responses of the reference: the best of each n to one prompt, or those at or above the prompt's bar."""
    first_key, key = jax.random.split(key)
    group = BEST_OF if rule.learner == "best_of_n" else 1
    first = jnp.repeat(first_states(game, first_key, rule.episodes // group), group)
    episodes = sample(game, game.log_reference, key, first)
    total = episodes.rewards.sum(axis=1)
    if rule.learner == "filtered":
        chosen = total >= bar[first] - 1e-5  # sums in float32
        return {"episodes": episodes._replace(mask=episodes.mask & chosen[:, None])}
    best = jnp.argmax(total.reshape(-1, group), axis=1) + group * jnp.arange(len(total) // group)
    return {"episodes": jax.tree.map(lambda leaf: leaf[best], episodes)}


def imitation_loss(tables: Tables, batch: dict[str, Any]) -> Float[Array, ""]:
    """Negative log-likelihood of the tokens chosen, nats a token."""
    episodes: Episodes = batch["episodes"]
    return -masked_mean(logprobs(tables["policy"], episodes), episodes.mask)


def policy_logits(game: Game, tables: Tables) -> Float[Array, "S V"]:
    """log ref + Q / beta of a learner of action values, else its own."""
    return game.log_reference + tables["action_value"] / BETA if "action_value" in tables else tables["policy"]


def initial(rule: Rule, game: Game, policy: Float[Array, "S V"]) -> Tables:
    """Values of 0; ``policy`` as logits."""
    if rule.learner == "soft_q":
        return {"action_value": jnp.zeros_like(policy)}
    return {"policy": policy, "value": jnp.zeros(len(policy))}


def _parts(rule: Rule) -> tuple[Callable[..., dict[str, Any]], Loss]:
    if rule.learner == "soft_q":
        return lambda game, tables, key, bar: soft_q_batch(rule, game, tables, key), soft_q_loss
    if rule.learner in ("best_of_n", "filtered"):
        return partial(imitation_batch, rule), imitation_loss
    return lambda game, tables, key, bar: on_policy_batch(rule, game, tables, key), partial(on_policy_loss, rule)


@functools.cache
def _program(rule: Rule, records: int, every: int) -> Callable[..., Tables]:
    make_batch, loss = _parts(rule)
    updates = records * every * rule.epochs * rule.minibatches
    optimizer = make_optimizer(OptimizerSpec(rule.learning_rate, updates, schedule=rule.schedule, clip_norm=0.0))

    def one(game: Game, bar: Array, tables: Tables, key: jax.Array) -> Tables:
        def minibatch(carry: tuple[Tables, Any], batch: dict[str, Any]) -> tuple[tuple[Tables, Any], None]:
            tables, state = carry
            changes, state = optimizer.update(jax.grad(loss)(tables, batch), state, tables)
            return (optax.apply_updates(tables, changes), state), None

        def iteration(carry: tuple[Tables, Any], key: jax.Array) -> tuple[tuple[Tables, Any], None]:
            batch_key, order_key = jax.random.split(key)
            batch = make_batch(game, carry[0], batch_key, bar)
            rows = len(batch["episodes"].states)
            orders = jax.vmap(lambda k: jax.random.permutation(k, rows))(jax.random.split(order_key, rule.epochs))
            orders = orders.reshape(rule.epochs * rule.minibatches, rows // rule.minibatches)
            return jax.lax.scan(lambda c, o: minibatch(c, jax.tree.map(lambda leaf: leaf[o], batch)), carry, orders)

        def record(carry: tuple[Tables, Any], keys: jax.Array) -> tuple[tuple[Tables, Any], Tables]:
            carry, _ = jax.lax.scan(iteration, carry, keys)
            return carry, carry[0]

        keys = jax.random.split(key, (records, every))
        _, seen = jax.lax.scan(record, (tables, optimizer.init(tables)), keys)
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), tables, seen)

    return jax.jit(jax.vmap(one, in_axes=(None, None, None, 0)))


def train(
    rule: Rule,
    process: Process,
    seeds: tuple[int, ...],
    records: int,
    every: int,
    policy: Float[np.ndarray, "S V"] | None = None,
) -> dict[str, Float[np.ndarray, "seeds records ..."]]:
    """Tables by seed before the first iteration and after each ``every`` of them; ``policy`` as probabilities.

    All start at ``policy``, or at the reference. Of ``soft_q`` the policy is added.
    """
    game = make_game(process)
    start = game.log_reference if policy is None else jnp.asarray(np.log(policy), jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    bar = jnp.asarray(bars(process, KEPT_SHARE), jnp.float32)
    found = _program(rule, records, every)(game, bar, initial(rule, game, start), keys)
    found["policy"] = jax.nn.softmax(policy_logits(game, found), axis=-1)
    return {name: np.asarray(table, np.float64) for name, table in found.items()}
