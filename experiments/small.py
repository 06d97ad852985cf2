"""A reward model small enough to sweep: a two-layer network on bags of words of the embedded world.

All copies (seeds, label noises) of one setting are trained at once by ``vmap``, their steps by one ``scan``.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from rlhf_jax.data import world
from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import Utility, unit_range

WORDS = {word: place for place, word in enumerate(world.vocabulary())}
KEYS = {key: place for place, key in enumerate(world.KEYS)}
CITIES = {city: place for place, city in enumerate(world.CITIES)}
FEATURES = len(WORDS) + len(KEYS) * len(CITIES) + 1
LIST_SIZE = 8
HIDDEN = 32
LEARNING_RATE = 5e-3
BATCH = 8  # lists


class Lists(NamedTuple):
    """Ranked lists: features of the responses, their gold rewards, and whether the prompt is closed."""

    features: Float[np.ndarray, "L K F"]
    gold: Float[np.ndarray, "L K"]
    closed: np.ndarray


class Answers(NamedTuple):
    """N answers of the SFT corpus to each of P prompts."""

    prompts: list[str]
    texts: list[list[str]]
    features: Float[np.ndarray, "P N F"]
    gold: Float[np.ndarray, "P N"]
    closed: np.ndarray


def features_of(prompt: str, response: str) -> Float[np.ndarray, "F"]:
    """Counts of the response's words in quarters, each pair (country asked for, city named), and a bias of the type."""
    found = np.zeros(FEATURES, np.float32)
    country = next((word for word in prompt.split() if word in KEYS), None)
    for word in response.split():
        if word in WORDS:  # a policy's own words may be others
            found[WORDS[word]] += 0.25
        if country is not None and word in CITIES:
            found[len(WORDS) + KEYS[country] * len(CITIES) + CITIES[word]] = 1.0
    found[-1] = float(country is not None)
    return found


def _prompts(rng: np.random.Generator, count: int, validation: bool) -> list[str]:
    return [world.sample_prompt(rng, ("open", "closed")[i % 2], validation) for i in range(count)]


@functools.cache
def sample_lists(seed: int, count: int, validation: bool) -> Lists:
    """``count`` lists of 8, open and closed prompts in turn."""
    rng = np.random.default_rng([seed, int(validation), 1])
    prompts = _prompts(rng, count, validation)
    texts = [world.sample_list(rng, prompt, LIST_SIZE) for prompt in prompts]
    return Lists(
        np.array([[features_of(p, text) for text in row] for p, row in zip(prompts, texts, strict=True)]),
        np.array([[world.gold(p, text) for text in row] for p, row in zip(prompts, texts, strict=True)]),
        np.arange(count) % 2 == 1,
    )


@functools.cache
def sample_answers(seed: int, prompts: int, count: int) -> Answers:
    """``count`` answers of the SFT corpus to each of so many held-out prompts."""
    rng = np.random.default_rng([seed, 2])
    asked = _prompts(rng, prompts, validation=True)
    texts = [[world.sft_answer(rng, prompt) for _ in range(count)] for prompt in asked]
    return Answers(
        asked,
        texts,
        np.array([[features_of(p, text) for text in row] for p, row in zip(asked, texts, strict=True)]),
        np.array([[world.gold(p, text) for text in row] for p, row in zip(asked, texts, strict=True)]),
        np.arange(prompts) % 2 == 1,
    )


def noisy_ranks(rng: np.random.Generator, gold: Float[np.ndarray, "L K"], noise: float) -> Int[np.ndarray, "L K"]:
    """A rater's forced total order, 0 = best: gold / noise + Gumbel, so that pairs follow s((gold_i - gold_j) / noise).

    Equally good responses are thus ordered by chance. Source: Plackett-Luce as a random utility model.
    """
    felt = gold / noise + rng.gumbel(size=gold.shape)
    return np.argsort(np.argsort(-felt, axis=1), axis=1).astype(np.int32)


def init(key: jax.Array) -> dict[str, Array]:
    """Parameters of one network."""
    one, two = jax.random.split(key)
    return {
        "in": jax.random.normal(one, (FEATURES, HIDDEN)) * 0.3,
        "bias": jnp.zeros(HIDDEN),
        "out": jax.random.normal(two, (HIDDEN,)) / np.sqrt(HIDDEN),
        "level": jnp.zeros(()),
    }


def rewards_of(params: dict[str, Array], features: Float[Array, "*S F"]) -> Float[Array, "*S"]:
    """Rewards in [0, 1]."""
    return jax.nn.sigmoid(jnp.tanh(features @ params["in"] + params["bias"]) @ params["out"] + params["level"])


def train(
    utility: Utility,
    features: Float[np.ndarray, "C L K F"],
    ranks: Int[np.ndarray, "C L K"],
    seeds: Int[np.ndarray, "C"],
    steps: int,
) -> dict[str, Array]:
    """C networks, each on its own lists from its own seed; every leaf has a leading axis C.

    The loss is divided by U(1) - U(0), so that one learning rate serves every utility.
    """
    scale = unit_range(utility)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    everything = jnp.ones(features.shape[2], bool)

    def loss(params: dict[str, Array], features: Array, ranks: Array) -> Float[Array, ""]:
        rewards = rewards_of(params, features)
        each = jax.vmap(lambda r, k: ranked_utility_loss(rewards=r, ranks=k, mask=everything, utility=utility))
        return jnp.mean(each(rewards, ranks)) / scale

    def one(features: Array, ranks: Array, seed: Array) -> dict[str, Array]:
        key = jax.random.key(seed)
        params = init(key)

        def step(carry: tuple[dict[str, Array], optax.OptState], number: Array) -> tuple[object, None]:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(key, number), (BATCH,), 0, features.shape[0])
            updates, state = optimizer.update(jax.grad(loss)(params, features[rows], ranks[rows]), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
        return params

    return jax.jit(jax.vmap(one))(features, ranks, seeds)
