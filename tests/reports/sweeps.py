"""Folders of sweeps and experiments made up from a seed, with the layout that docs/sweeps.md describes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.metrics import MetricWriter, update_summary, write_status

Value = Callable[[Mapping[str, Any], int], dict[str, float]]


def write_sweep(
    folder: Path,
    points: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    values: Value,
    objectives: Sequence[tuple[str, str]] = (("ppo.gold.open", "max"),),
    failed: Sequence[int] = (),
) -> Path:
    """Trial n is point n // S under seed n % S; ``values`` gives the summary of a point under a seed."""
    record = {
        "config": {"seed": 0, "ppo": {"iterations": 5}},
        "space": {"file": "", "keys": {"ppo.kl.coefficient": "loguniform(0.001, 1)"}},
        "sampler": "random",
        "sampler_seed": 0,
        "seeds": list(seeds),
        "points": len(points),
        "objectives": [{"metric": metric, "direction": direction} for metric, direction in objectives],
        "pruner": "none",
        "failures": 0.5,
    }
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(record))
    number = 0
    for place, parameters in enumerate(points):
        for seed in seeds:
            trial = folder / "trials" / f"{number:04d}"
            told = {"trial": number, "point": place, "seed": seed, "parameters": parameters, "time": 0.0}
            trial.mkdir(parents=True)
            (trial / "trial.json").write_text(json.dumps(told))
            write_trial(trial, {"seed": seed}, values(parameters, seed), failed=number in failed)
            number += 1
    return folder


def write_trial(folder: Path, config: Mapping[str, Any], summary: Mapping[str, float], failed: bool = False) -> None:
    """A run directory of a few rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    with MetricWriter(folder, tensorboard=False) as writer:
        for step in (1, 2, 3):
            row = {name.partition(".")[2]: value * step / 3 for name, value in summary.items()}
            writer.write("ppo", step, row)
    if failed:
        write_status(folder, "failed", stage="ppo", step=3, exit_code=1, reason="FloatingPointError: <nan>")
    else:
        update_summary(folder, summary)
        write_status(folder, "done", stage="ppo", step=3, exit_code=0)


def random_points(count: int) -> list[dict[str, Any]]:
    """Points of a conditional space of three kinds of parameters."""
    rng = np.random.default_rng(0)
    points = []
    for place in range(count):
        name = ("power", "log")[place % 2]
        point = {"reward.utility.name": name, "ppo.kl.coefficient": float(10 ** rng.uniform(-3, 0))}
        if name == "power":
            point["reward.utility.gamma"] = float(rng.uniform(0.2, 0.9))
        points.append(point)
    return points


def gold_and_kl(parameters: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Gold has its best at a coefficient of 0.03; the KL falls with it."""
    rng = np.random.default_rng([seed, int(1e6 * parameters["ppo.kl.coefficient"])])
    distance = np.log10(parameters["ppo.kl.coefficient"]) + 1.5
    gold = 0.9 - 0.15 * distance**2 + 0.05 * (parameters["reward.utility.name"] == "log") + 0.02 * rng.normal()
    kl = 2 - 2 * np.log10(parameters["ppo.kl.coefficient"]) + 0.1 * rng.normal()
    return {"ppo.gold.open": float(gold), "ppo.kl": float(kl), "ppo.reward.mean": float(gold + 0.1)}
