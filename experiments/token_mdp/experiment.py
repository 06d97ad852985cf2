"""One setting: a learner on a table by all seeds at once, PPO with a decoder, exact figures, or ways to explore."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.token_mdp import exploring, transformer
from experiments.token_mdp.exact import (
    best_of_n_law,
    distances,
    filtered_law,
    policy_of_law,
    sampling_error,
    value_errors,
    worth,
)
from experiments.token_mdp.learners import Rule, train
from experiments.token_mdp.sweep import (
    BEST_OF,
    EVERY,
    KEPT_SHARE,
    LEARNERS,
    RECORDS,
    SEEDS,
    SIZES,
    TABULAR,
    TASK_NAMES,
    TRANSFORMER_EVERY,
    TRANSFORMER_RECORDS,
    TRANSFORMERS,
)
from experiments.token_mdp.world import BETA, make_process, tabular_policy
from rlhf_jax.metrics import update_summary, write_text_atomically
from rlhf_jax.theory.soft_control import Process, evaluate, optimum, visits

FIXED = 3  # the draw of the policy whose values are learned while it stays


def run(setting: str, folder: Path) -> None:
    """Figures to ``summary.json``, what they are over iterations to ``curves.json``, values to ``values.json``."""
    name = setting.rpartition("/")[2]
    if name == "exact":
        update_summary(folder, compute())
    elif name == "exploring":
        _write(folder / "curves.json", exploring.explore())
    elif name in TABULAR:
        run_table(name, folder)
    else:
        run_transformer(name, folder)


def compute() -> dict[str, float]:
    """TASK.POLICY.MEASURE in closed form: the optimum, the reference, and what imitation tends to."""
    found: dict[str, float] = {}
    for task in TASK_NAMES:
        process = make_process(task)
        best = optimum(process, BETA).policy
        policies = {"optimum": best, "reference": process.reference}
        policies |= {f"best_of_{n}": policy_of_law(process, best_of_n_law(process, n)) for n in SIZES}
        policies["filtered"] = policy_of_law(process, filtered_law(process, KEPT_SHARE))
        for name, policy in policies.items():
            measures = worth(process, policy, BETA) | distances(process, policy, best)
            found |= {f"{task}.{name}.{measure}": value for measure, value in measures.items()}
    return found


def target_of(process: Process, learner: str) -> Float[np.ndarray, "S V"]:
    """The policy that a learner tends to, if it is right."""
    if learner == "best_of_n":
        return policy_of_law(process, best_of_n_law(process, BEST_OF))
    if learner == "filtered":
        return policy_of_law(process, filtered_law(process, KEPT_SHARE))
    return optimum(process, BETA).policy


def measure_policy(
    process: Process, policy: Float[np.ndarray, "S V"], target: Float[np.ndarray, "S V"]
) -> dict[str, float]:
    """``tv.NAME`` from its target, ``from_optimum.NAME``, what it is worth, and how far below the optimum: ``gap``."""
    best = optimum(process, BETA).policy
    found = {f"tv.{name}": value for name, value in distances(process, policy, target).items()}
    found |= {f"from_optimum.{name}": value for name, value in distances(process, policy, best).items()}
    found |= worth(process, policy, BETA)
    return found | {"gap": worth(process, best, BETA)["objective"] - found["objective"]}


def run_table(name: str, folder: Path) -> None:
    """A learner on a task, all seeds."""
    task, learner = TABULAR[name]
    process = make_process(task)
    fixed = tabular_policy(len(process.start), FIXED) if learner == "value" else None
    rule = Rule(**{"gamma": process.gamma, **LEARNERS[learner]})
    tables = train(rule, process, SEEDS, RECORDS, EVERY, fixed)
    target = target_of(process, learner) if fixed is None else fixed
    seeds = [[measure_policy(process, policy, target) for policy in run] for run in tables["policy"]]
    learned = values_of(learner, process, tables)
    if learned is not None:
        for rows, policies, values in zip(seeds, tables["policy"], learned, strict=True):
            for row, policy, value in zip(rows, policies, values, strict=True):
                row |= _critic(process, policy, value, learner)
        policies = tables["policy"][:, -1]
        _write_values(folder, [process] * len(SEEDS), policies, learned[:, -1], learner)
    _write_runs(folder, dict(zip(map(str, SEEDS), seeds, strict=True)))
    if fixed is not None:
        episodes = RECORDS * EVERY * rule.episodes
        update_summary(folder, {"sampling_error": sampling_error(process, fixed, BETA, episodes)})


def values_of(
    learner: str, process: Process, tables: dict[str, np.ndarray]
) -> Float[np.ndarray, "seeds records S"] | None:
    """The values of states that a learner has learned, if any; of action values beta log E_ref exp(Q / beta)."""
    if learner == "soft_q":
        weights = process.reference * np.exp(tables["action_value"] / BETA)
        return BETA * np.log(weights.sum(axis=-1))
    return tables["value"] if learner in ("ppo", "ppo_constant", "value") else None


def run_transformer(name: str, folder: Path) -> None:
    """The project's PPO with a decoder, one seed."""
    kind, _, seed = name.rpartition(".")
    found = transformer.train(
        TRANSFORMERS[kind], transformer.make_model("learned"), int(seed), TRANSFORMER_RECORDS, TRANSFORMER_EVERY
    )
    target = optimum(found.process, BETA).policy
    rows = [
        measure_policy(found.process, policy, target) | _critic(found.process, policy, value, "ppo")
        for policy, value in zip(found.policy, found.value, strict=True)
    ]
    _write_runs(folder, {seed: rows})
    _write_values(folder, [found.process], found.policy[-1:], found.value[-1:], "ppo")


def _exact_values(process: Process, policy: Float[np.ndarray, "S V"], learner: str) -> Float[np.ndarray, "S"]:
    """Those of the learner's own policy, of soft Q-learning those of the optimum."""
    return optimum(process, BETA).values.state if learner == "soft_q" else evaluate(process, policy, BETA).state


def _critic(
    process: Process, policy: Float[np.ndarray, "S V"], values: Float[np.ndarray, "S"], learner: str
) -> dict[str, float]:
    errors = value_errors(process, policy, values, _exact_values(process, policy, learner))
    return {f"value.{name}": error for name, error in errors.items()}


def _write_values(
    folder: Path,
    processes: Iterable[Process],
    policies: Iterable[Float[np.ndarray, "S V"]],
    learned: Iterable[Float[np.ndarray, "S"]],
    learner: str,
) -> None:
    rows = [
        {
            "learned": values.tolist(),
            "exact": _exact_values(process, policy, learner).tolist(),
            "visits": visits(process, policy).tolist(),
        }
        for process, policy, values in zip(processes, policies, learned, strict=True)
    ]
    _write(folder / "values.json", {"seeds": rows})


def _write_runs(folder: Path, runs: dict[str, list[dict[str, float]]]) -> None:
    """``SEED.MEASURE`` at the end, and every measure by seed and record."""
    for seed, rows in runs.items():
        update_summary(folder, {f"{seed}.{name}": value for name, value in rows[-1].items()})
    curves = {name: [[row[name] for row in rows] for rows in runs.values()] for name in next(iter(runs.values()))[-1]}
    _write(folder / "curves.json", curves)


def _write(path: Path, values: object) -> None:
    write_text_atomically(path, json.dumps(values) + "\n")
