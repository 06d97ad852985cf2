"""A reward model and a gate on synthetic prompts whose true reward law is known.

A prompt has features x and a true shape a(x) in (0.05, 0.95); a response has a quality q, uniform on [0, 1], and the
gold reward Q(q), the quantile of Beta(a(x), a(x)). A list shows the order of eight qualities, never the rewards. Raters
vote on its pairs with probability sigmoid(gap of gold rewards / TAU), and scores are gold rewards with noise.

The reward model, a small network of (x, q), is trained under U_a, a the shape that the arm gives to the list. The gate,
a small network of x, is trained at the same time on a score of its own:

* ``likelihood``: of the votes, with one TAU for all shapes, a proper score;
* ``score_moment``: squared error of the second moment of the scores against its mean under a, proper for that mean;
* ``end_votes``: the same for the votes won within the best three and within the worst three of the list;
* ``disagreement``: the same for the raters' variance over all pairs, of which the mean is no monotone function of a;
* ``own_utility``: the utility that the reward model reaches under a. Values of different utilities cannot be compared,
  and for gaps below 1 the family rises with s: this gate must end at the two-point law whatever the prompt.

The reward model sends no gradient to the gate and the gate none to the reward model.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy.special import expit

from experiments.only_two_classes.family import BoxCox, quantiles, win_table
from rlhf_jax.objectives.ranking import ranked_utility_loss

FEATURES, LIST, VOTES = 4, 8, 2
TAU, NOISE, EPSILON = 0.1, 0.1, 0.02
GRID = np.linspace(0.02, 0.98, 33)
LOW, HIGH = 0.02, 0.98


class Lists(NamedTuple):
    """N training lists: features, qualities (best first), votes for i over j, scores, and the shapes of the arms."""

    x: Any  # (N, F)
    q: Any  # (N, K)
    wins: Any  # (N, K, K)
    scores: Any  # (N, K)
    given: Any  # (N,)


@dataclasses.dataclass(frozen=True)
class Arm:
    """How a list gets its shape: ``gate`` "" (given with the data) or a score; ``classes`` 0 is a continuous gate."""

    gate: str = ""
    classes: int = 0


@dataclasses.dataclass(frozen=True)
class Size:
    """What a training costs: updates, lists per update, hidden units."""

    steps: int = 3000
    batch: int = 32
    width: int = 48


def true_shape(x: np.ndarray) -> np.ndarray:
    """a(x) in (0.05, 0.95), from nearly two points to nearly uniform; the last two features do not matter."""
    return 0.05 + 0.9 * expit(3.0 * x[..., 0] + 1.5 * np.sin(3.0 * x[..., 1]))


def draw_lists(seed: int, count: int) -> tuple[Lists, np.ndarray]:
    """Training lists of one seed and their true shapes; ``given`` holds the truth."""
    rng = np.random.default_rng([seed, 1])
    x = rng.uniform(-1.0, 1.0, (count, FEATURES))
    shape = true_shape(x)
    q = np.sort(rng.random((count, LIST)), axis=1)[:, ::-1]
    gold = quantiles(shape[:, None], q)
    wins = rng.binomial(VOTES, expit((gold[:, :, None] - gold[:, None, :]) / TAU))
    scores = gold + NOISE * rng.standard_normal(gold.shape)
    return Lists(x, q, wins.astype(np.float64), scores, shape), shape


def classes_of(shape: np.ndarray, count: int) -> np.ndarray:
    """Each shape replaced by the mean of its class, the classes being ``count`` equally frequent intervals."""
    place = np.searchsorted(np.quantile(shape, np.arange(1, count) / count), shape, side="right")
    means = np.array([shape[place == k].mean() for k in range(count)])
    return means[place]


@functools.cache
def _table() -> np.ndarray:
    return win_table(GRID, LIST, TAU)


def expected_wins(shape: Float[Array, ""]) -> Float[Array, "K K"]:
    """P(a rater prefers the i-th to the j-th best) under a shape, linear between the points of GRID."""
    table = jnp.asarray(_table(), jnp.float32)
    place = jnp.clip((shape - GRID[0]) / (GRID[1] - GRID[0]), 0.0, len(GRID) - 1.001)
    below = jnp.floor(place).astype(jnp.int32)
    part = place - below
    return (1.0 - part) * table[below] + part * table[below + 1]


_PAIRS = np.triu(np.ones((LIST, LIST), bool), 1)


def vote_log_likelihood(shape: Float[Array, ""], wins: Float[Array, "K K"]) -> Float[Array, ""]:
    """Mean log-likelihood of a vote of one list under a shape, in nats."""
    p = jnp.clip(expected_wins(shape), 1e-4, 1.0 - 1e-4)
    each = wins * jnp.log(p) + (VOTES - wins) * jnp.log1p(-p)
    return jnp.sum(jnp.where(_PAIRS, each, 0.0)) / (VOTES * _PAIRS.sum())


def list_utility(rewards: Float[Array, "K"], shape: Float[Array, ""], balanced: bool) -> Float[Array, ""]:
    """Mean utility of a list, best first; ``balanced`` divides by U(1) - U(0), which leaves the best rewards alone."""
    utility = BoxCox(epsilon=EPSILON, shape=shape)
    loss = ranked_utility_loss(rewards=rewards, ranks=jnp.arange(LIST), mask=jnp.ones(LIST, bool), utility=utility)
    ends = utility.value(jnp.array([0.0, 1.0]))
    return -loss / (ends[1] - ends[0] if balanced else 1.0)


def gate_score(arm: Arm, shape: Float[Array, ""], rewards: Float[Array, "K"], one: Lists) -> Float[Array, ""]:
    """What the gate maximises on one list, as a function of the shape alone."""
    if arm.gate == "likelihood":
        return LIST * vote_log_likelihood(shape, one.wins)
    if arm.gate == "score_moment":
        seen = jnp.mean((one.scores - 0.5) ** 2) - NOISE**2
        return -100.0 * (seen - 0.25 / (2.0 * shape + 1.0)) ** 2
    if arm.gate in STATISTICS:
        statistic = STATISTICS[arm.gate]
        # Of p (1 - p) a sample of VOTES shows too little by (VOTES - 1) / VOTES; a share of votes is unbiased.
        factor = VOTES / (VOTES - 1) if arm.gate == "disagreement" else 1.0
        return -100.0 * (factor * statistic(one.wins / VOTES) - statistic(expected_wins(shape))) ** 2
    return list_utility(rewards, shape, balanced=False)


def end_votes(p: Float[Array, "K K"]) -> Float[Array, ""]:
    """Mean share of votes won by the better response, over the pairs of the best three and of the worst three."""
    inner = jnp.triu(jnp.ones((3, 3)), 1)
    return (jnp.sum(inner * p[:3, :3]) + jnp.sum(inner * p[-3:, -3:])) / 6.0


def disagreement(p: Float[Array, "K K"]) -> Float[Array, ""]:
    """Mean variance p (1 - p) of a vote over the pairs of a list."""
    return jnp.sum(jnp.where(_PAIRS, p * (1.0 - p), 0.0)) / _PAIRS.sum()


STATISTICS = {"end_votes": end_votes, "disagreement": disagreement}


def network(params: Any, x: Float[Array, "... F"]) -> Float[Array, "... O"]:
    """Tanh layers, the last linear."""
    for weight, bias in params[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ params[-1][0] + params[-1][1]


def _fresh(key: Array, sizes: tuple[int, ...], last: float) -> list[tuple[Array, Array]]:
    layers = []
    for place, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        scale = (last if place == len(sizes) - 2 else 1.0) / np.sqrt(rows)
        layers.append((scale * jax.random.normal(jax.random.fold_in(key, place), (rows, columns)), jnp.zeros(columns)))
    return layers


def rewards_of(params: Any, x: Float[Array, "F"], q: Float[Array, "K"]) -> Float[Array, "K"]:
    """Rewards in [0, 1] of responses of quality q to one prompt."""
    inputs = jnp.concatenate([jnp.broadcast_to(x, (*q.shape, x.size)), 4.0 * (q[:, None] - 0.5)], axis=1)
    return jax.nn.sigmoid(network(params, inputs)[:, 0])


def class_shapes(gate: Any) -> Float[Array, "C"]:
    """The shapes of the classes of a gate, learned like its weights."""
    return LOW + (HIGH - LOW) * jax.nn.sigmoid(gate["centres"])


def shape_of(arm: Arm, gate: Any, x: Float[Array, "F"]) -> Float[Array, ""]:
    """The shape that a gate gives to a prompt."""
    out = network(gate["layers"], x)
    if not arm.classes:
        return LOW + (HIGH - LOW) * jax.nn.sigmoid(out[0])
    return class_shapes(gate)[jnp.argmax(out)]


def _gate_loss(arm: Arm, gate: Any, rewards: Float[Array, "K"], one: Lists) -> Float[Array, ""]:
    if not arm.gate:
        return jnp.zeros(())
    if not arm.classes:
        return -gate_score(arm, shape_of(arm, gate, one.x), rewards, one)
    # The expected score of a class drawn from the gate: best with all weight on the class whose shape fits best. (The
    # likelihood of a mixture would be best with the classes at the extremes and every prompt somewhere between.)
    shares = jax.nn.softmax(network(gate["layers"], one.x))
    return -jnp.sum(shares * jax.vmap(lambda shape: gate_score(arm, shape, rewards, one))(class_shapes(gate)))


def train(arm: Arm, size: Size, key: Array, lists: Lists) -> tuple[Any, Any]:
    """(reward model, gate) after ``size.steps`` updates of Adam on random batches of the lists."""
    start, order = jax.random.split(key)
    params = {
        "reward": _fresh(jax.random.fold_in(start, 0), (FEATURES + 1, size.width, size.width, 1), 1.0),
        "gate": {
            "layers": _fresh(jax.random.fold_in(start, 1), (FEATURES, 32, max(arm.classes, 1)), 0.3),
            "centres": jnp.linspace(-1.0, 1.0, arm.classes) if arm.classes > 1 else jnp.zeros(max(arm.classes, 1)),
        },
    }
    # Adam takes each parameter's gradient in units of its own size, so two losses in one sum do not disturb each other.
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, size.steps))

    def loss(params: Any, batch: Lists) -> Float[Array, ""]:
        def one_list(one: Lists) -> Float[Array, ""]:
            rewards = rewards_of(params["reward"], one.x, one.q)
            shape = shape_of(arm, params["gate"], one.x) if arm.gate else one.given
            fit = list_utility(rewards, jax.lax.stop_gradient(shape), balanced=True)
            return _gate_loss(arm, params["gate"], jax.lax.stop_gradient(rewards), one) - fit

        return jnp.mean(jax.vmap(one_list)(batch))

    def step(carry: Any, key: Array) -> tuple[Any, None]:
        params, memory = carry
        rows = jax.random.randint(key, (size.batch,), 0, lists.x.shape[0])
        gradient = jax.grad(loss)(params, jax.tree.map(lambda leaf: leaf[rows], lists))
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(params, updates), memory), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(order, size.steps))
    return params["reward"], params["gate"]
