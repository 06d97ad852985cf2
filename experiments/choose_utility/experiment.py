"""One utility: reward models under rater noise, and what they are worth on held-out prompts."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.stats import wasserstein_distance

from experiments.choose_utility.sweep import NOISES, SEEDS, SETTINGS
from experiments.measures import beta_at_kl, pair_ece, temperature, tilted
from experiments.small import Answers, Lists, noisy_ranks, rewards_of, sample_answers, sample_lists, train
from rlhf_jax.diagnostics.best_of_n import best_of_n
from rlhf_jax.metrics import update_summary
from rlhf_jax.objectives.utilities import make_utility

TRAINING, HELD_OUT = 60, 200  # lists
PROMPTS, ANSWERS = 64, 64
STEPS = 1000
KL = 1.0  # nats


class World(NamedTuple):
    """What every setting is trained and judged on: per copy (noise, seed), noises outermost."""

    training: list[Lists]
    ranks: list[Int[np.ndarray, "L K"]]
    held_out: list[Lists]
    held_out_ranks: list[Int[np.ndarray, "L K"]]
    answers: list[Answers]


@functools.cache
def world() -> World:
    """The same for every setting, so that settings are compared seed by seed."""
    training = [sample_lists(seed, TRAINING, False) for seed in SEEDS]
    held_out = [sample_lists(seed, HELD_OUT, True) for seed in SEEDS]
    answers = [sample_answers(seed, PROMPTS, ANSWERS) for seed in SEEDS]

    def ranks(lists: list[Lists], stream: int) -> list[Int[np.ndarray, "L K"]]:
        return [
            noisy_ranks(np.random.default_rng([seed, stream]), one.gold, noise)
            for noise in NOISES
            for seed, one in zip(SEEDS, lists, strict=True)
        ]

    copies = len(NOISES)
    return World(training * copies, ranks(training, 3), held_out * copies, ranks(held_out, 4), answers * copies)


def run(setting: str, folder: Path) -> None:
    """Train under the utility of ``setting``; every measure goes to ``summary.json`` as NOISE.SEED.NAME."""
    name, parameters = SETTINGS[setting]
    data = world()
    params = train(
        make_utility(name, **parameters),
        np.stack([lists.features for lists in data.training]),
        np.stack(data.ranks),
        np.array(SEEDS * len(NOISES)),
        STEPS,
    )
    summary = {}
    for copy, (noise, seed) in enumerate((noise, seed) for noise in NOISES for seed in SEEDS):
        one = jax.tree.map(lambda leaf, copy=copy: leaf[copy], params)
        found = measure(one, data.held_out[copy], data.held_out_ranks[copy], data.answers[copy])
        summary |= {f"noise{noise:g}.{seed}.{key}": value for key, value in found.items()}
    update_summary(folder, summary)


def measure(
    params: dict[str, Array], lists: Lists, ranks: Int[np.ndarray, "L K"], answers: Answers
) -> dict[str, float]:
    """Criteria from held-out lists (accuracy, calibration, distance to gold) and outcomes on answers to new prompts."""
    rewards = np.asarray(rewards_of(params, lists.features), float)
    first, second = np.triu_indices(rewards.shape[1], 1)
    gaps = rewards[:, first] - rewards[:, second]
    labelled = ranks[:, first] < ranks[:, second]
    truth = lists.gold[:, first] - lists.gold[:, second]
    half = len(rewards) // 2  # the temperature is fitted on one half, calibration measured on the other
    fitted = temperature(gaps[:half].ravel(), labelled[:half].ravel())
    scores = np.asarray(rewards_of(params, answers.features), float)
    found = {
        "accuracy": _accuracy(gaps, np.where(labelled, 1.0, -1.0)),
        "accuracy.gold": _accuracy(gaps, truth),
        "ece.raw": pair_ece(gaps[half:].ravel(), labelled[half:].ravel()),
        "ece": pair_ece(gaps[half:].ravel() / fitted, labelled[half:].ravel()),
        "mae": float(np.abs(rewards - lists.gold).mean()),
    }
    for kind, kept in (("open", ~lists.closed), ("closed", lists.closed)):
        found[f"mae.{kind}"] = float(np.abs(rewards[kept] - lists.gold[kept]).mean())
        found[f"w1.{kind}"] = float(wasserstein_distance(rewards[kept].ravel(), lists.gold[kept].ravel()))
    found["w1"] = (found["w1.open"] + found["w1.closed"]) / 2
    for n in (1, 4, 16):
        found[f"gold.bon{n}"] = float(np.mean([best_of_n(s, g, n) for s, g in zip(scores, answers.gold, strict=True)]))
    reference = np.full(ANSWERS, 1.0 / ANSWERS)
    beta = beta_at_kl(list(scores), [reference] * len(scores), KL)
    if beta is not None:
        found["gold.kl1"] = float(
            np.mean([tilted(s, reference, beta) @ g for s, g in zip(scores, answers.gold, strict=True)])
        )
    return found


def _accuracy(gaps: Float[np.ndarray, "L P"], truth: Float[np.ndarray, "L P"]) -> float:
    """Share of the pairs that differ in truth which the gaps order alike; equal rewards count one half."""
    kept = truth != 0
    return float(((np.sign(gaps) * np.sign(truth))[kept] + 1).mean() / 2)
