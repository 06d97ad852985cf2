"""Runs of a few steps, launched in this process, and what they leave behind."""

import dataclasses
import functools
import json
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rlhf_jax.build.data import Data, load_data, own_gold
from rlhf_jax.config import default_config
from rlhf_jax.data import world_local
from rlhf_jax.data.records import Record
from rlhf_jax.data.world_builder import load_world
from rlhf_jax.data.world_feedback import Annotators, give_feedback
from rlhf_jax.data.world_local import load_local
from rlhf_jax.main import main
from rlhf_jax.metrics import read_jsonl, unit_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Rates are of the clock, not of the run.
SHARES = ("time.sampling", "time.scoring", "time.update", "time.rest")  # of an iteration of PPO
RATES = ("steps_per_second", "tokens_per_second", "time.input", *SHARES)

MODEL = (
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.heads=2",
    "--config.model.kv_heads=1",
    "--config.model.mlp_width=32",
)
BATCHES = (
    "--config.sft.batch_size=8",
    "--config.reward.batch_size=8",
    "--config.segments.batch_size=16",
    "--config.dpo.batch_size=8",
    "--config.online.prompts_per_iteration=8",
    "--config.online.samples_per_prompt=2",
    "--config.online.minibatches=1",
    "--config.ppo.prompts_per_iteration=16",
    "--config.ppo.samples_per_prompt=1",
    "--config.ppo.epochs=2",
    "--config.ppo.minibatches=2",
)
SIZE = (*MODEL, *BATCHES)
# Three checkpoints in SFT and in the reward model, two in PPO; evaluations and checkpoints fall on different steps.
PIPELINE = (
    *SIZE,
    "--config.sft.steps=6",
    "--config.sft.eval_every=3",
    "--config.reward.steps=6",
    "--config.reward.eval_every=3",
    "--config.reward.eval_train=6",
    "--config.ppo.iterations=4",
    "--config.ppo.eval_every=3",
    "--config.log.every=1",
    "--config.checkpoint.every=2",
    "--config.checkpoint.every_iterations=2",
)
# For a file of short texts.
FILE = (
    "--config.data.max_prompt=32",
    "--config.data.max_response=16",
    "--config.data.validation_fraction=0.3",
    "--config.sft.row_length=64",
)


@functools.cache
def small_world(task: str, ties: str, list_size: int) -> Data:
    """A slice of the embedded world: reading all of it takes longer than the steps of these tests."""
    config = default_config()
    config.data.task, config.data.ties, config.data.list_size = task, ties, list_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.data.load_world", _first_of_world)
        patch.setattr("rlhf_jax.data.world_local.load_local", _first_of_local)
        data = load_data(config)
    return dataclasses.replace(
        data,
        sft=data.sft[:256],
        sft_validation=data.sft_validation[:32],
        lists=data.lists[:64],
        lists_validation=data.lists_validation[:32],
        prompts=data.prompts[:64],
        prompts_validation=data.prompts_validation[:32],
    )


# Enough of each split for the slice above: every tenth demonstration is held out.
READ = {"sft": 320, "lists": 64, "lists_validation": 32, "prompts": 64, "prompts_validation": 32}


def _first_of_world(form: str, split: str, list_size: int) -> list[Record]:
    return load_world(form, split, list_size)[: READ[split]]


def _first_of_local(split: str, list_size: int, *, kept: bool) -> tuple[Record, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(world_local.SPLITS, split, READ[split])
        return load_local.__wrapped__(split, list_size, kept=kept)  # past the cache, which is for whole splits


def load(
    config: Any, rejects_path: pathlib.Path | None = None, limit: int | None = None, tokenizer: Any = None
) -> Data:
    if config.data.path:
        return load_data(config, rejects_path, limit, tokenizer)
    data = small_world(config.data.task, config.data.ties, config.data.list_size)
    data = dataclasses.replace(data, gold=own_gold(config) or data.gold)
    if config.data.feedback == "lists":
        return data
    who = Annotators(config.data.feedback, config.data.noise, config.data.judges)
    told = {name: [give_feedback(one, who) for one in getattr(data, name)] for name in ("lists", "lists_validation")}
    return dataclasses.replace(data, annotators=who, **told)


def launch(*words: str, report: bool = True) -> None:
    """The program on a slice of the embedded world, or on the file that ``words`` name; the report is optional."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.context.load_data", load)
        patch.setattr("rlhf_jax.build.plan.load_data", load)
        if not report:
            patch.setattr("rlhf_jax.run.write_report", lambda workdir: workdir / "report" / "index.html")
        main(words)
    for word in words:
        if word.startswith("--workdir="):
            assert_every_metric_has_a_unit(pathlib.Path(word.removeprefix("--workdir=")))


def assert_every_metric_has_a_unit(workdir: pathlib.Path) -> None:
    """Whatever a run has written, docs/reference/metrics.md has it."""
    names = {name for row in read_jsonl(workdir / "metrics.jsonl") for name in row["metrics"]}
    assert not {name for name in names if not unit_of(name)}, "no unit in rlhf_jax/metrics.py"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a launch that must end with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        launch(*words)
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.startswith("rlhf-jax: error: ")
    assert line.count("\n") == 1, line
    return line


def last_step(workdir: pathlib.Path, stage: str) -> int:
    """The newest checkpoint of a stage."""
    return max(int(path.name) for path in (workdir / "checkpoints" / stage).iterdir() if path.name.isdigit())


def state_of(workdir: pathlib.Path, stage: str) -> dict[str, np.ndarray]:
    """Every array of a stage's last checkpoint by its path, read by Orbax alone: parameters, moments, step, key."""
    directory = workdir / "checkpoints" / stage / str(last_step(workdir, stage))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {item: _read(directory / item) for item in ("params", "rest")}
    return {jax.tree_util.keystr(path): _numpy(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


def _read(path: pathlib.Path) -> Any:
    """Whichever devices, of however many processes, it was saved from."""
    here = ocp.ArrayRestoreArgs(sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    with ocp.PyTreeCheckpointer() as reader:
        saved = reader.metadata(path).item_metadata.tree
        return reader.restore(path, restore_args=jax.tree.map(lambda _: here, saved))


def _numpy(leaf: Any) -> np.ndarray:
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same_state(one: pathlib.Path, other: pathlib.Path, stages: Sequence[str]) -> None:
    """Bit for bit, all that the last checkpoints hold."""
    for stage in stages:
        assert last_step(one, stage) == last_step(other, stage)
        a, b = state_of(one, stage), state_of(other, stage)
        assert a.keys() == b.keys()
        assert len(a) > 10
        assert any(name.startswith("['params']") for name in a)
        for name in a:
            assert a[name].tobytes() == b[name].tobytes(), f"{stage}: {name} differs"


def rows_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` without what the clock decides."""
    rows = read_jsonl(workdir / "metrics.jsonl")
    for row in rows:
        del row["time"]
        for name in RATES:
            row["metrics"].pop(name, None)
    return rows


def status_of(workdir: pathlib.Path) -> dict[str, Any]:
    return json.loads((workdir / "STATUS.json").read_text())


def write_jsonl(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lists_file(path: pathlib.Path) -> pathlib.Path:
    """48 sums with four answers each, of which two are tied."""
    return write_jsonl(
        path,
        (
            {
                "prompt": f"What is {a} plus {b}?",
                "responses": [
                    {"text": f"It is {a + b + 1}.", "score": 0.25},
                    {"text": f"It is {a + b}.", "score": 1.0},
                    {"text": f"Perhaps {a + b + 2}?", "score": 0.25},
                    {"text": "Ask me another.", "score": -0.5},
                ],
            }
            for a in range(6)
            for b in range(8)
        ),
    )


def hh_file(path: pathlib.Path) -> pathlib.Path:
    """48 dialogues of two turns, whose last answers are a right and a wrong sum."""
    return write_jsonl(
        path,
        (
            {
                "chosen": f"\n\nHuman: Hello.\n\nAssistant: Yes?\n\nHuman: {a} and {b}?\n\nAssistant: {a + b}.",
                "rejected": f"\n\nHuman: Hello.\n\nAssistant: Yes?\n\nHuman: {a} and {b}?\n\nAssistant: {a - b}.",
            }
            for a in range(6)
            for b in range(1, 9)
        ),
    )
