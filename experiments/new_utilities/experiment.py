"""The exponential and the quantile utility: theory against training, and what no utility of the gap alone can do."""

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from scipy.optimize import linprog, minimize

from experiments.new_utilities.bimodal import Bimodal
from experiments.new_utilities.sweep import LAWS, SEEDS, SIGMAS, SIZES
from experiments.small import LIST_SIZE, rewards_of, sample_lists, train
from rlhf_jax.main import main
from rlhf_jax.metrics import read_jsonl, read_summary, update_summary
from rlhf_jax.objectives.ranking import ranked_utility_loss
from rlhf_jax.objectives.utilities import Exponential, Quantile, Utility
from rlhf_jax.theory.inverse import slope_for

FREE = 20  # responses with a logit each
FREE_STEPS, FREE_RATE = 20_000, 0.1
TRAINING, HELD_OUT, STEPS = 400, 200, 2500
EPSILON = 0.01  # below every gap that is wanted, or the continuation would close it
RANDOM = 100  # utilities drawn to be looked at
OWN = "experiments/new_utilities/bimodal.py:Bimodal"


def wanted_utility(law: str) -> Quantile:
    """The quantile utility of a law of ``sweep.LAWS``."""
    if law == "bimodal":
        return Bimodal(epsilon=EPSILON)
    a, b = (float(shape) for shape in law.removeprefix("Beta(").removesuffix(")").split(","))
    return Quantile(a=a, b=b, epsilon=EPSILON)


def wanted_rewards(utility: Quantile, size: int) -> Float[np.ndarray, "K"]:
    """1, the quantiles of the inner places, 0: what the quantile utility promises for ``size`` strict ranks."""
    inner = np.asarray(utility.quantile(jnp.asarray(1.0 - (np.arange(size) + 0.5) / size)), float)
    return np.concatenate([[1.0], inner[1:-1], [0.0]])


def best_rewards(sigmas: Float[np.ndarray, "M"], weights: Float[np.ndarray, "M"], size: int) -> Float[np.ndarray, "K"]:
    """The maximiser in [0, 1], best first, of the sum over pairs of U(x) = -sum_m weights_m exp(-x / sigmas_m).

    The program's own solver and utilities are not used: NumPy, and a bounded quasi-Newton method on a concave problem.
    """
    first, second = np.triu_indices(size, 1)

    def negative(r: Float[np.ndarray, "K"]) -> tuple[float, Float[np.ndarray, "K"]]:
        gaps = r[first] - r[second]
        # Below 0 the tangent at 0 goes on, as in training.
        parts = np.exp(-np.maximum(gaps, 0.0)[:, None] / sigmas)
        slope = parts @ (weights / sigmas)
        value = -parts @ weights + np.minimum(gaps, 0.0) * slope
        gradient = np.bincount(first, slope, size) - np.bincount(second, slope, size)
        return -value.sum() / size, -gradient / size

    found = minimize(
        negative,
        np.linspace(1.0, 0.0, size),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * size,
        options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9},
    )
    return np.asarray(found.x)


def train_free(utility: Utility, size: int, seed: int) -> Float[np.ndarray, "K"]:
    """Rewards sigmoid(logit) of ``size`` responses ranked 0, 1, ..., each with a logit of its own, by Adam."""
    ranks, mask = jnp.arange(size), jnp.ones(size, bool)
    optimizer = optax.adam(optax.cosine_decay_schedule(FREE_RATE, FREE_STEPS))

    def loss(logits: Float[Array, "K"]) -> Float[Array, ""]:
        return ranked_utility_loss(rewards=jax.nn.sigmoid(logits), ranks=ranks, mask=mask, utility=utility)

    @jax.jit
    def fit(logits: Float[Array, "K"]) -> Float[Array, "K"]:
        def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
            logits, state = carry
            updates, state = optimizer.update(jax.grad(loss)(logits), state)
            return (optax.apply_updates(logits, updates), state), None

        return jax.lax.scan(step, (logits, optimizer.init(logits)), None, length=FREE_STEPS)[0][0]

    return np.asarray(jax.nn.sigmoid(fit(jax.random.normal(jax.random.key(seed), (size,)))), float)


def unreachable(rewards: Float[np.ndarray, "K"]) -> float:
    """How far ``rewards`` are from being best under any concave increasing U of the gap: 0 if some U has them.

    They are best if at every inner one two pulls are equal: the sum of U' of the gaps to the better and the
    sum of U' of the gaps to the worse. The slopes, decreasing in the gap and 1 at the smallest, are what a linear
    programme may choose; it makes the largest difference of the two pulls as small as it can, which is returned.
    """
    size = len(rewards)
    gaps = np.round(rewards[:, None] - rewards[None, :], 9)
    sizes = np.unique(gaps[gaps > 0])
    place = {gap: i for i, gap in enumerate(sizes)}
    pulls = np.zeros((size - 2, len(sizes)))
    for k in range(1, size - 1):
        for j in range(size):
            if gaps[j, k] > 0:
                pulls[k - 1, place[gaps[j, k]]] -= 1.0
            if gaps[k, j] > 0:
                pulls[k - 1, place[gaps[k, j]]] += 1.0
    worst = -np.ones((size - 2, 1))
    falling = np.zeros((len(sizes) - 1, len(sizes) + 1))
    falling[np.arange(len(sizes) - 1), np.arange(len(sizes) - 1)] = -1.0
    falling[np.arange(len(sizes) - 1), np.arange(1, len(sizes))] = 1.0
    above = np.vstack([np.hstack([pulls, worst]), np.hstack([-pulls, worst]), falling])
    found = linprog(
        np.eye(len(sizes) + 1)[-1],
        A_ub=above,
        b_ub=np.zeros(len(above)),
        bounds=[(1.0, 1.0)] + [(0.0, 1.0)] * (len(sizes) - 1) + [(0.0, None)],
    )
    return float(found.fun)


def _exponential() -> dict[str, float]:
    summary = {}
    for sigma in SIGMAS:
        for size in SIZES:
            found = best_rewards(np.array([sigma]), np.ones(1), size)
            summary |= {f"best.{sigma:g}.{size}.{i}": value for i, value in enumerate(found)}
        for seed in SEEDS:
            trained = train_free(Exponential(sigma=sigma), FREE, seed)
            summary |= {f"trained.{sigma:g}.{seed}.{i}": value for i, value in enumerate(trained)}
    return summary


def _quantile() -> dict[str, float]:
    summary = {}
    for law in LAWS:
        utility = wanted_utility(law)
        summary |= {f"wanted.{law}.{i}": value for i, value in enumerate(wanted_rewards(utility, FREE))}
        for seed in SEEDS:
            trained = train_free(utility, FREE, seed)
            summary |= {f"trained.{law}.{seed}.{i}": value for i, value in enumerate(trained)}
    return summary


def _world() -> dict[str, float]:
    summary = {}
    lists = [sample_lists(seed, TRAINING, False) for seed in SEEDS]
    features = np.stack([one.features for one in lists])
    ranks = np.broadcast_to(np.arange(LIST_SIZE, dtype=np.int32), features.shape[:3])
    sigma = 0.25
    wanted = {law: (utility := wanted_utility(law), wanted_rewards(utility, LIST_SIZE)) for law in LAWS}
    best = best_rewards(np.array([sigma]), np.ones(1), LIST_SIZE)
    for title, (utility, target) in (wanted | {"exponential 0.25": (Exponential(sigma=sigma), best)}).items():
        params = train(utility, features, ranks, np.array(SEEDS), STEPS)
        summary |= {f"wanted.{title}.{i}": value for i, value in enumerate(target)}
        for place, seed in enumerate(SEEDS):
            one = {name: leaf[place] for name, leaf in params.items()}
            rewards = np.asarray(rewards_of(one, sample_lists(seed, HELD_OUT, True).features), float)
            summary |= {f"mean.{title}.{seed}.{i}": value for i, value in enumerate(rewards.mean(axis=0))}
            summary[f"accuracy.{title}.{seed}"] = float(
                (np.sign(rewards[:, :, None] - rewards[:, None, :])[:, *np.triu_indices(LIST_SIZE, 1)] + 1).mean() / 2
            )
    return summary


def _obstruction() -> dict[str, float]:
    size = LIST_SIZE
    summary = {f"unreachable.{law}": unreachable(wanted_rewards(wanted_utility(law), size)) for law in LAWS}
    # Rewards that some utility does have, for comparison: the roots of (1 - x^2) P'_7(x) are the best of log x.
    fekete = np.sort(np.concatenate([[-1.0, 1.0], np.polynomial.legendre.Legendre.basis(size - 1).deriv().roots()]))
    best = (1.0 + fekete[::-1]) / 2.0
    best[[0, -1]] = 1.0, 0.0  # to the last bit
    summary |= {"unreachable.best of log x": unreachable(best), "imbalance.best of log x": slope_for(best).residual}
    for law in LAWS:
        wanted = wanted_rewards(wanted_utility(law), size)
        summary[f"imbalance.{law}"] = slope_for(wanted).residual
        summary |= {f"outer.{law}": wanted[0] - wanted[1], f"next.{law}": wanted[1] - wanted[2]}
    rng = np.random.default_rng(0)
    for number in range(RANDOM):
        best = best_rewards(np.exp(rng.uniform(-4.0, 1.0, 3)), rng.dirichlet(np.ones(3)), size)
        summary |= {f"outer.random {number}": best[0] - best[1], f"next.random {number}": best[1] - best[2]}
    return summary


def _program(seed: str) -> dict[str, float]:
    """The reward stage of the program, small and short, under the user's own law; mean reward at each rank."""
    summary = {}
    with tempfile.TemporaryDirectory() as folder:
        main(
            [
                "--config=configs/reward_listwise.py",
                f"--workdir={os.path.join(folder, 'run')}",
                f"--config.seed={seed}",
                f"--config.reward.utility.name={OWN}",
                f"--config.reward.utility.epsilon={EPSILON}",
                "--config.reward.steps=1200",
                "--config.reward.eval_every=1200",
                "--config.log.tensorboard=false",
            ]
        )
        rows = read_jsonl(Path(folder) / "run" / "rewards" / "reward.jsonl")
        for rank in range(LIST_SIZE):
            summary[f"mean.{rank}"] = float(np.mean([row["reward"] for row in rows if row["rank"] == rank]))
        summary["accuracy"] = read_summary(Path(folder) / "run")["reward.pair_accuracy"]
    target = wanted_rewards(Bimodal(), LIST_SIZE)
    return summary | {f"wanted.{i}": value for i, value in enumerate(target)}


def run(setting: str, folder: Path) -> None:
    """Compute one of ``sweep.SETTINGS``; the numbers go to ``summary.json``."""
    name, _, seed = setting.rpartition("/")[2].partition(".")
    parts = {
        "exponential": _exponential,
        "quantile": _quantile,
        "world": _world,
        "obstruction": _obstruction,
    }
    update_summary(folder, _program(seed) if name == "program" else parts[name]())
