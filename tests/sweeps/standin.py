"""Sweeps without training: specs, folders, and trials that end as they are told."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.config import default_config, to_json
from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.metrics import update_summary, write_status
from rlhf_jax.sweeps.folder import Value, make_trial, open_sweep, trial_folder
from rlhf_jax.sweeps.spec import SweepSpec

GAMMA = "reward.utility.gamma"
ACCURACY = Objective("reward.pair_accuracy", "max")
LOSS = Objective("reward.loss", "min")


def spec_of(**changes: Any) -> SweepSpec:
    """A grid over three exponents with two seeds, unless told otherwise."""
    config = default_config()
    config.stages = ("reward",)
    config.reward.init = "scratch"
    settings: dict[str, Any] = {
        "config": json.loads(to_json(config)),
        "file": "",
        "keys": ((GAMMA, "0.5,1.0,2.0"),),
        "sampler": "grid",
        "sampler_seed": 0,
        "seeds": (0, 1),
        "points": 3,
        "objectives": (ACCURACY,),
        "pruner": "none",
        "failures": 0.5,
    }
    return SweepSpec(**settings | changes)


def begin(folder: pathlib.Path, **changes: Any) -> SweepSpec:
    """Make the folder of such a sweep."""
    spec = spec_of(**changes)
    open_sweep(folder, spec, "")
    return spec


def end(folder: pathlib.Path, state: str = "done", reason: str = "", **figures: float) -> None:
    """End the trial in a folder, with figures of the stage reward."""
    if figures:
        update_summary(folder, {f"reward.{name}": value for name, value in figures.items()})
    write_status(folder, state, stage="reward", step=1, reason=reason, exit_code=0)


def made(
    folder: pathlib.Path,
    spec: SweepSpec,
    number: int,
    parameters: Mapping[str, Value] | None = None,
    state: str = "done",
    curve: Sequence[float] = (),
    reason: str = "",
    **figures: float,
) -> pathlib.Path:
    """A trial that has come to its end; ``curve`` is its pair accuracy at evaluations after 10, 20, ... steps."""
    known = {GAMMA: (0.5, 1.0, 2.0)[number // len(spec.seeds)]} if parameters is None else parameters
    assert make_trial(folder, spec, number, known)
    path = trial_folder(folder, number)
    rows = [
        {"stage": "reward", "step": 10 * place, "time": 0.0, "metrics": {"validation.pair_accuracy": value}}
        for place, value in enumerate(curve, start=1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state != "running":
        end(path, state, reason, **figures)
    return path
