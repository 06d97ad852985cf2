"""What DPO and PPO start from: a run of rlhf_jax, and its models exported for the other sides."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness.driver import ROOT


def prepare(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One step of SFT, for PPO of a reward model too, and of each the folder that transformers reads.

    SFT moves nothing that float32 can tell. The reward model does move: of one on the policy's own trunk, which nobody
    trains, rlhf_jax would read reward and reference in one pass.
    """
    stages = ("sft", "reward") if case["stage"] == "ppo" else ("sft",)
    run = folder / "parents"
    settings = {
        "stages": ",".join(stages),
        "model.path": folder / "model",
        "tokenizer.kind": "pretrained",
        "data.path": folder / "train.jsonl",
        "data.max_prompt": case["prompt"][1],
        "data.max_response": case["response"][1],
        "data.list_size": case["responses"],
        "sft.steps": 1,
        "sft.batch_size": 1,
        "sft.row_length": case["prompt"][1] + case["response"][1],
        "sft.optimizer.learning_rate": 1e-12,
        "ppo.prompts_per_iteration": 1,
        "ppo.samples_per_prompt": 1,
        "ppo.minibatches": 1,
        "log.tensorboard": False,
    }
    if "reward" in stages:
        settings |= {"reward.steps": 1, "reward.batch_size": 1, "reward.init": "scratch"}
        settings |= {"reward.utility.name": "log_sigmoid", "reward.optimizer.learning_rate": 1e-5}
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    _rlhf_jax("--config=configs/reward_pairwise.py", f"--workdir={run}", *words)
    found = {"parents": str(run)}
    for stage, name in zip(stages, ("policy", "reward"), strict=False):
        out = folder / f"exported-{stage}"
        _rlhf_jax("export", str(run), f"--stage={stage}", f"--out={out}")
        found[name] = str(out)
    return found


def _rlhf_jax(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_jax", *words],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"rlhf_jax {json.dumps(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
