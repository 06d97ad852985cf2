"""rlhf_jax: the task of a stage, as a run steps through it; of sampling, the program that answers prompts."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.harness.worker import Answer, Case, Line, measured, serve
from benchmarks.sides.limits import FLOATS, SIDE, limits
from rlhf_jax.build import inherit_model, make_context, make_task
from rlhf_jax.build.context import Context, stage_decoder
from rlhf_jax.build.sft import sft_sampling
from rlhf_jax.config import default_config, lock, validate
from rlhf_jax.flags import override
from rlhf_jax.models import hf
from rlhf_jax.resources import keep_memory
from rlhf_jax.types import PromptBatch

RATE = 1e-5  # small enough for losses to stay what they are


def main(line: Line, case: Case) -> None:
    """Serve the stage of ``case``."""
    keep_memory()  # as the program does
    with tempfile.TemporaryDirectory() as workdir:
        context = make_context(configuration(case), Path(workdir))
        actions = sampling(context, case) if case["stage"] == "sampling" else training(context, case)
        serve(line, actions | machine())


def configuration(case: Case) -> ConfigDict:
    """The settings of the stage."""
    config, stage, folder = default_config(), case["stage"], Path(case["folder"])
    config.stages = ("sft",) if stage == "sampling" else (stage,)
    config.data.path, config.data.max_prompt, config.data.max_response = (
        str(folder / "train.jsonl"),
        case["prompt"][1],
        case["response"][1],
    )
    config.data.list_size = max(case["responses"], 2)
    if case.get("parents"):
        for name in ("sft", "reward") if stage == "ppo" else ("sft",):
            config.parents[name] = case["parents"]
    else:
        config.model.path = str(folder / "model")
    config.tokenizer.kind, config.tokenizer.path = "pretrained", str(folder / "model")
    for key, value in settings(stage, case).items():
        override(config, key, str(value))
    for key, value in case.get("settings", {}).items():
        override(config, key, str(value))
    validate(lock(config))
    inherit_model(config)
    return config


def settings(stage: str, case: Case) -> dict[str, Any]:
    """What the alternatives are told in words of their own: AdamW as PyTorch has it, at a constant rate."""
    if stage == "sampling":
        return {"sft.row_length": case["prompt"][1] + case["response"][1]}
    whole: dict[str, Any] = {"optimizer.learning_rate": RATE, "optimizer.warmup": 0, "optimizer.schedule": "constant"}
    whole["optimizer.beta2"] = 0.999
    if stage == "ppo":
        whole |= {"prompts_per_iteration": case["rows"], "samples_per_prompt": 1, "iterations": 10_000}
        whole |= {"epochs": case["epochs"], "minibatches": case["minibatches"], "value_learning_rate": RATE}
    else:
        whole |= {"batch_size": case["rows"], "steps": 10_000}
    if stage == "sft":
        whole["row_length"] = case["row_length"]
    if stage == "reward":
        whole |= {"init": "scratch", "utility.name": "log_sigmoid"}
    return {f"{stage}.{key}": value for key, value in whole.items()}


# ------------------------------------------------------------------------- training


def training(context: Context, case: Case) -> dict[str, Callable[[], Answer]]:
    """``round`` is so many steps of the task, from drawing the batch to having its metrics on the host."""
    stage = case["stage"]
    task = make_task(context, stage)
    state = task.state
    if stage == "reward":
        export_reward_model(Path(case["folder"]), state.params)

    def one_round() -> Answer:
        nonlocal state
        found: Answer = {"units": 0}
        with measured(found):
            for _ in range(case["steps"]):
                batch = next(task.batches)
                found["units"] += units_of(stage, batch)
                state, out = task.step(state, batch)
            metrics = task.finish(out)
            jax.block_until_ready(state)
        return found | {"check": metrics["reward.mean" if stage == "ppo" else "loss"], "metrics": metrics}

    def check() -> Answer:
        return {"check": task.evaluate(state, False).metrics["loss"]}

    return {"round": one_round, "check": check}


def units_of(stage: str, batch: Any) -> int:
    """Tokens of packed rows, padding not counted; lists or pairs, and episodes."""
    if stage == "sft":
        return int(np.count_nonzero(batch.segments))
    lists = getattr(batch, "lists", batch)
    return len(lists.index)


def export_reward_model(folder: Path, params: Any) -> None:
    """Leave the fresh reward model where the other sides find it, so that all begin with one head."""
    out = folder / "reward"
    out.mkdir()
    spec = hf.read_spec(folder / "model")
    pad, eos = spec.vocab_size - 2, spec.vocab_size - 1
    settings = hf.model_config(spec, reward=True, pad_id=pad, eos_id=eos, about={})
    hf.write_model(out, settings, hf.reward_tensors(spec, params))


# ------------------------------------------------------------------------- sampling


def sampling(context: Context, case: Case) -> dict[str, Callable[[], Answer]]:
    """``round`` answers so many prompts."""
    decoder, executor, folder = stage_decoder(context, "sft"), context.executor, Path(case["folder"])
    params = executor.place(hf.load(folder / "model")[1], "state")
    answer = sft_sampling(context, decoder).compile(executor)
    ids = np.array([one["prompt"] for one in json.loads((folder / "ids.json").read_text())["train"][: case["rows"]]])
    numbers = np.arange(len(ids), dtype=np.int32)
    prompts = PromptBatch(ids.astype(np.int32), np.ones(ids.shape, bool), numbers, numbers)
    turn = 0

    def one_round() -> Answer:
        nonlocal turn
        turn += 1
        found: Answer = {}
        with measured(found):
            sampled = answer(params, executor.place(prompts, "rows"), jax.random.key(turn))[0]
            tokens, mask = (np.asarray(leaf) for leaf in sampled)
        np.savez(folder / "ours.npz", ids=tokens, mask=mask)
        return found | {"units": int(mask.sum()), "lengths": mask.sum(1).tolist()}

    return {"round": one_round}


# ------------------------------------------------------------------------- the machine


def machine() -> dict[str, Callable[[], Answer]]:
    """Its limits by XLA."""
    one, many = jnp.ones((SIDE, SIDE), jnp.float32), jnp.ones(FLOATS, jnp.float32)
    product, read = jax.jit(jnp.matmul), jax.jit(jnp.sum)
    return limits(lambda: product(one, one).block_until_ready(), lambda: read(many).block_until_ready())
