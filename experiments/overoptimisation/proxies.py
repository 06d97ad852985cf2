"""Reward models that learn from ranked lists of the reference's responses, and golds, as tables over all responses."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from experiments.overoptimisation import world
from experiments.overoptimisation.exact import DEVIATION
from experiments.overoptimisation.policy import Tables
from experiments.overoptimisation.world import EOS, HORIZON, PROMPT, VOCAB
from rlhf_jax.data.gold import load_gold
from rlhf_jax.models import DecoderSpec, apply_reward_model, init_decoder, init_scalar_head
from rlhf_jax.objectives.aggregation import aggregate
from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import Utility, make_utility, unit_range
from rlhf_jax.types import Params

LIST_SIZE, BATCH, STEPS = 8, 8, 500
LEARNING_RATE = 5e-3
ROWS = 4096  # responses scored at once
GOLD_WIDTH, GOLD_LISTS = 32, 4000  # of the larger reward model
PENALTY = 1.0  # deviations, of the aggregate ``lower``


class Lists(NamedTuple):
    """L lists of K responses by their numbers; ``better[l, i, j]``: i was labelled better than j."""

    responses: Int[np.ndarray, "L K"]
    better: Bool[np.ndarray, "L K K"]


def label(
    rng: np.random.Generator, responses: Int[np.ndarray, "L K"], gold: Float[np.ndarray, "S"], noise: float
) -> Lists:
    """Every pair of different gold labelled by it, and a share of the labels turned round, each by itself."""
    worth = gold[responses]
    better = worth[:, :, None] > worth[:, None, :]
    turned = np.triu(rng.random(better.shape) < noise, 1)
    turned |= np.swapaxes(turned, 1, 2)
    return Lists(responses, np.where(turned, np.swapaxes(better, 1, 2), better))


def decoder(width: int) -> DecoderSpec | None:
    """One layer; None of width 0, a bag of tokens."""
    if not width:
        return None
    heads = max(width // 8, 1)
    return DecoderSpec(
        vocab_size=VOCAB,
        width=width,
        depth=1,
        heads=heads,
        kv_heads=heads,
        mlp_width=2 * width,
        positions="learned",
        max_positions=1 + HORIZON,
    )


def parameters(width: int) -> int:
    """How many numbers a proxy of this width has."""
    shapes = jax.eval_shape(lambda: _init(decoder(width), jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _init(spec: DecoderSpec | None, key: Array) -> Params:
    if spec is None:
        return {"weights": jnp.zeros(VOCAB)}
    return {"decoder": init_decoder(spec, key), "head": init_scalar_head(spec, jax.random.fold_in(key, 1))}


def _score(
    spec: DecoderSpec | None, bounded: bool, params: Params, ids: Int[Array, "B R"], mask: Bool[Array, "B R"]
) -> Float[Array, "B"]:
    """Rewards of responses after the prompt."""
    if spec is None:
        return jnp.sum(jnp.where(mask, params["weights"][ids], 0.0), axis=1)
    start = jnp.full((len(ids), 1), PROMPT, jnp.int32)
    rows, read = jnp.concatenate([start, ids], axis=1), jnp.concatenate([jnp.ones_like(start, bool), mask], axis=1)
    return apply_reward_model(spec, params, rows, read, bounded=bounded)


@functools.cache
def _programs(width: int, utility: Utility) -> tuple[Any, Any]:
    """(train one model on lists from a key, score all responses), compiled, for many models at once."""
    spec, bounded, scale = decoder(width), utility.needs_bounded_rewards, unit_range(utility)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))
    )
    everyone, unranked = jnp.ones(LIST_SIZE, bool), jnp.zeros(LIST_SIZE, jnp.int32)

    def loss(params: Params, ids: Array, mask: Array, better: Array) -> Float[Array, ""]:
        flat = ids.reshape(-1, HORIZON), mask.reshape(-1, HORIZON)
        rewards = _score(spec, bounded, params, *flat).reshape(better.shape[:2])
        each = jax.vmap(
            lambda own, pairs: ranked_utility_loss(
                rewards=own, ranks=unranked, mask=everyone, utility=utility, better=pairs
            )
        )
        return jnp.mean(each(rewards, better)) / scale

    def train(key: Array, ids: Array, mask: Array, better: Array) -> Params:
        params = _init(spec, key)

        def step(carry: Any, count: Array) -> tuple[Any, None]:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(key, count), (BATCH,), 0, len(ids))
            slope = jax.grad(loss)(params, ids[rows], mask[rows], better[rows])
            updates, state = optimizer.update(slope, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(STEPS))[0][0]

    def score(params: Params, ids: Array, mask: Array) -> Float[Array, "S"]:
        return jax.lax.map(lambda part: _score(spec, bounded, params, *part), (ids, mask))

    return jax.jit(jax.vmap(train)), jax.jit(jax.vmap(score, in_axes=(0, None, None)))


def fit(lists: list[Lists], seeds: list[int], width: int, utility: Utility) -> Float[np.ndarray, "N S"]:
    """A model on each of N data sets, from each of N seeds: its rewards of all responses."""
    train, score = _programs(width, utility)
    every = world.responses()
    mask = every.mask
    which = np.stack([one.responses for one in lists])
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    params = train(keys, every.ids[which], mask[which], np.stack([one.better for one in lists]))
    size = len(every.ids)
    rows = np.resize(np.arange(size), (-(-size // ROWS), ROWS))
    return np.asarray(score(params, every.ids[rows], mask[rows]), float).reshape(len(lists), -1)[:, :size]


@functools.cache
def gold_table(name: str) -> Float[np.ndarray, "S"]:
    """Gold of every response: ``code``, ``model`` (in the units of the code under the reference), or a user's own."""
    every = world.responses()
    code = world.coded_gold(every.spices)
    if name == "code":
        return code
    if name != "model":
        own = load_gold(name)
        return np.array([own("", world.text(ids, words)) for ids, words in zip(every.ids, every.words, strict=True)])
    rng = np.random.default_rng([0, 7])
    # Of all kinds of policies, so that it knows what lies far from the reference.
    share, end = rng.random((2, GOLD_LISTS, LIST_SIZE, 1))
    ends = rng.random((GOLD_LISTS, LIST_SIZE, HORIZON)) < 0.2 * end**2
    tokens = np.where(ends, EOS, rng.random(ends.shape) < share)
    words = np.where(ends.any(axis=-1), np.argmax(ends, axis=-1), HORIZON)
    shown = label(rng, world.number(tokens, words), code, 0.0)
    (found,) = fit([shown], [0], GOLD_WIDTH, make_utility("log_sigmoid"))
    return scaled(found, world.law("free"), *_moments(code, world.law("free")))


def make_tables(proxy: Mapping[str, Any], seeds: tuple[int, ...]) -> Tables:
    """A proxy trained from each seed, scaled to the linear proxy's deviation; see ``sweep.PROXY``."""
    law, gold = world.law("free"), gold_table(proxy["gold"])
    count = proxy["members"]
    lists = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        one = label(rng, world.sample("free", rng, (proxy["lists"], LIST_SIZE)), gold, proxy["noise"])
        lists += [one] * count
    utility = make_utility(**proxy["utility"])
    found = fit(lists, [100 * seed + member for seed in seeds for member in range(count)], proxy["width"], utility)
    members = scaled(found, law, 0.0, DEVIATION).reshape(len(seeds), count, -1)
    together = aggregate(jnp.asarray(np.swapaxes(members, 0, 1)), proxy["aggregate"], PENALTY)
    return Tables(
        scaled(np.asarray(together, float), law, 0.0, DEVIATION),
        np.broadcast_to(gold, (len(seeds), len(gold))),
        members.std(axis=1),
    )


def _moments(values: Float[np.ndarray, "*N S"], law: Float[np.ndarray, "S"]) -> tuple[Any, Any]:
    mean = values @ law
    return mean, np.sqrt(values**2 @ law - mean**2)


def scaled(values: Float[np.ndarray, "*N S"], law: Float[np.ndarray, "S"], mean: float, deviation: float) -> Any:
    """The same up to a line, with this mean and deviation under the law."""
    centre, spread = _moments(values, law)
    return mean + deviation * (values - centre[..., None]) / spread[..., None]
