"""Two small trainers: one free number for each response, and a network that open and tiered prompts share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from experiments.partial_orders.orders import SIZE, TIERS, ranks_of
from rlhf_jax.objectives.masked import masked_mean
from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import Utility, unit_range

# Types of prompt and the order in which their responses are truly known.
TYPES = {"open": "full", "graded": "three", "closed": "two"}
FEATURES = len(TYPES) + 2 + 2  # the type, two features without meaning, the quality and the grade of the response
WIDTH, BATCH = 32, 16


def order_loss(
    rewards: Float[Array, "K"], better: Bool[Array, "K K"], utility: Utility, weights: Float[Array, "K K"] | float = 1.0
) -> Float[Array, ""]:
    """Negative mean utility over the compared pairs, whatever their graph."""
    return -masked_mean(weights * utility.value(rewards[:, None] - rewards[None, :]), better)


def train_free(
    utility: Utility, better: Bool[np.ndarray, "O K K"], weights: Float[np.ndarray, "O K K"], seeds: int, steps: int
) -> Float[np.ndarray, "O S K"]:
    """Rewards of each order from ``seeds`` random starts: a free logit for each response, Adam."""
    scale = unit_range(utility)
    # A short memory: the first gaps are in the wrong order, where a continued utility may be a thousand times steeper.
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps), b2=0.95)

    def one(better: Array, weights: Array, start: Array) -> Array:
        def loss(logits: Array) -> Array:
            return order_loss(jax.nn.sigmoid(logits), better, utility, weights) / scale

        def step(carry: Any, _: None) -> tuple[Any, None]:
            logits, memory = carry
            updates, memory = optimizer.update(jax.grad(loss)(logits), memory)
            return (optax.apply_updates(logits, updates), memory), None

        (logits, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=steps)
        return jax.nn.sigmoid(logits)

    starts = jax.random.normal(jax.random.key(0), (seeds, better.shape[-1]))
    by_seed = jax.vmap(one, in_axes=(None, None, 0))
    return np.asarray(jax.jit(jax.vmap(by_seed, in_axes=(0, 0, None)))(better, weights, starts), float)


# ---------------------------------------------------------------------------------------------- the shared network


class Prompts(NamedTuple):
    """Lists of eight responses, best quality first."""

    features: Float[Any, "N K F"]
    ranks: Int[Any, "N K"]
    kind: Int[Any, "N"]


def draw(seed: int, count: int, ties: str) -> Prompts:
    """``count`` prompts, types in turn; ``ties``: kept (tiers by the grade) or broken (a total order by quality).

    The grade is what a rater sees of an answer's worth: right or wrong for closed prompts, one of three marks for
    graded ones, the quality itself for open ones. Both are in the features.
    """
    rng = np.random.default_rng([seed, 3])
    kind = np.arange(count) % len(TYPES)
    quality = (SIZE - 1 - np.arange(SIZE) + rng.uniform(0.1, 0.9, (count, SIZE))) / SIZE
    tiers = np.stack([ranks_of(TIERS[order]) for order in TYPES.values()])[kind]
    grade = np.where(kind[:, None] == 0, quality, 1.0 - tiers / np.maximum(tiers.max(axis=1, keepdims=True), 1))
    noise = np.repeat(rng.uniform(-1.0, 1.0, (count, 1, 2)), SIZE, axis=1)
    types = np.repeat(np.eye(len(TYPES))[kind][:, None], SIZE, axis=1)
    features = np.concatenate([types, noise, 4.0 * quality[..., None] - 2.0, 2.0 * grade[..., None] - 1.0], axis=-1)
    ranks = tiers if ties == "kept" else np.broadcast_to(np.arange(SIZE), tiers.shape)
    return Prompts(features.astype(np.float32), ranks.astype(np.int32), kind)


def rewards_of(params: Any, features: Float[Array, "*S F"]) -> Float[Array, "*S"]:
    """Rewards in [0, 1]."""
    hidden = features
    for weight, bias in params[:-1]:
        hidden = jnp.tanh(hidden @ weight + bias)
    return jax.nn.sigmoid((hidden @ params[-1][0] + params[-1][1])[..., 0])


def train_shared(utility: Utility, prompts: Prompts, seeds: Int[np.ndarray, "S"], steps: int) -> Any:
    """One network a seed on its own prompts (leading axis S), under one utility for every type."""
    scale = unit_range(utility)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    list_loss = functools.partial(ranked_utility_loss, mask=jnp.ones(SIZE, bool), utility=utility)

    def loss(params: Any, features: Array, ranks: Array) -> Array:
        rewards = rewards_of(params, features)
        return jnp.mean(jax.vmap(lambda r, k: list_loss(rewards=r, ranks=k))(rewards, ranks)) / scale

    def one(prompts: Prompts, seed: Array) -> Any:
        key = jax.random.key(seed)
        sizes = (FEATURES, WIDTH, WIDTH, 1)
        params = [
            (
                jax.random.normal(jax.random.fold_in(key, i), sizes[i : i + 2]) / np.sqrt(sizes[i]),
                jnp.zeros(sizes[i + 1]),
            )
            for i in range(len(sizes) - 1)
        ]

        def step(carry: Any, number: Array) -> tuple[Any, None]:
            params, memory = carry
            rows = jax.random.randint(jax.random.fold_in(key, 100 + number), (BATCH,), 0, prompts.ranks.shape[0])
            gradient = jax.grad(loss)(params, prompts.features[rows], prompts.ranks[rows])
            updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(params, updates), memory), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
        return params

    return jax.jit(jax.vmap(one))(prompts, seeds)
