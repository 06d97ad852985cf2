"""A run does not go on from, nor start from, what was made by something else than it thinks."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.errors import UserError
from rlhf_jax.main import main
from rlhf_jax.types import TrainState
from tests.end_to_end import tiny
from tests.reliability import states
from tests.reliability.conftest import Tally


@pytest.fixture(scope="module", autouse=True)
def _one_device() -> Any:
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        yield


@dataclasses.dataclass(frozen=True)
class Begun:
    """A run whose reward stage has saved its last step and not closed: its directory and its command."""

    workdir: pathlib.Path
    command: tuple[str, ...]

    def copy(self, to: pathlib.Path) -> pathlib.Path:
        return shutil.copytree(self.workdir, to)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    folder = tmp_path_factory.mktemp("begun")
    command = (
        f"--config={tiny.ROOT / 'configs' / 'lists_file.py'}",
        f"--config.data.path={tiny.lists_file(folder / 'lists.jsonl')}",
        *tiny.SIZE,
        *tiny.FILE,
        "--config.tokenizer.vocab_size=300",
        "--config.sft.steps=1",
        "--config.reward.steps=1",
        "--config.reward.batch_size=4",
    )
    tiny.launch(*command, f"--workdir={folder / 'run'}", report=False)
    summary = folder / "run" / "summary.json"
    kept = {name: value for name, value in json.loads(summary.read_text()).items() if not name.startswith("reward.")}
    summary.write_text(json.dumps(kept))
    return Begun(folder / "run", command)


# Another setting, and what the run was begun with.
SETTINGS = {
    "model.width=32": "model.width: 16 -> 32",
    "model.depth=2": "model.depth: 1 -> 2",
    "model.dtype=bfloat16": "model.dtype: 'float32' -> 'bfloat16'",
    "model.norm=layer": "model.norm: 'rms' -> 'layer'",
    "tokenizer.vocab_size=400": "tokenizer.vocab_size: 300 -> 400",
    "reward.utility.name=log": "reward.utility.name: 'log_sigmoid' -> 'log'",
    "reward.utility.sigma=0.5": "reward.utility.sigma: 0.25 -> 0.5",
    "reward.optimizer.name=adafactor": "reward.optimizer.name: 'adamw' -> 'adafactor'",
    "reward.ensemble.members=2": "reward.ensemble.members: 1 -> 2",
    "reward.steps=5": "reward.steps: 1 -> 5",
    "data.list_size=2": "data.list_size: 8 -> 2",
    "data.format=auto": "data.format: 'lists' -> 'auto'",
    "seed=1": "seed: 0 -> 1",
    "data.max_response=20": "data.max_response: 16 -> 20",
}


@pytest.mark.reliability("R12", tries=len(SETTINGS))
def test_another_setting_is_refused_with_what_differs(
    tally: Tally, begun: Begun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in turn, by exit code 2 and a line with the two values, before anything is computed or written."""
    before = {path: path.stat().st_mtime_ns for path in begun.workdir.rglob("*") if path.name != ".owner"}
    for _, (word, said) in zip(tally.tries, SETTINGS.items(), strict=True):
        with tally.one(word):
            line = refusal(capsys, *begun.command, f"--workdir={begun.workdir}", f"--config.{word}")
            assert f"of another run (old -> new): config.{said}" in line
            assert line.endswith("--config.checkpoint.accept=config\n")
    assert {path: path.stat().st_mtime_ns for path in begun.workdir.rglob("*") if path.name != ".owner"} == before


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of an end with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.startswith("rlhf-jax: error: ")
    assert line.count("\n") == 1
    return line


def another_record(run: pathlib.Path) -> None:
    path = run.parent / "lists.jsonl"
    path.write_text(path.read_text().replace("It is 3.", "It is three."))


def another_tokenizer(run: pathlib.Path) -> None:
    path = run / "tokenizer" / "tokenizer.json"
    rules = json.loads(path.read_text())
    rules["model"]["merges"] = rules["model"]["merges"][:-1]
    path.write_text(json.dumps(rules))


def another_stage(run: pathlib.Path) -> None:
    shutil.rmtree(run / "checkpoints" / "reward")
    shutil.copytree(run / "checkpoints" / "sft", run / "checkpoints" / "reward")


def another_parent(run: pathlib.Path) -> None:
    """The model that the reward model began with is trained anew, with other random numbers."""
    other = run.parent / "other"
    tiny.launch(f"--config={run / 'config.json'}", "--config.seed=1", "--config.stages=sft", f"--workdir={other}")
    shutil.rmtree(run / "checkpoints" / "sft")
    shutil.copytree(other / "checkpoints" / "sft", run / "checkpoints" / "sft")


# What is changed behind the back of a run, and how that is told.
CHANGES: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "data": (another_record, "data: "),
    "tokenizer": (another_tokenizer, "tokenizer: "),
    "parents": (another_parent, "parents.sft: ['step 1 "),
    "": (another_stage, "stage: 'sft' -> 'reward'"),
}


@pytest.mark.reliability("R12", tries=len(CHANGES))
def test_other_data_or_another_stage_is_refused_and_accepted_by_name(
    tally: Tally, begun: Begun, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One record of the file, one merge of the tokenizer, the model begun with, another stage: none is a setting.

    With config.checkpoint.accept the run goes on and says what it accepted; a stage is never accepted.
    """
    for _, (name, (change, said)) in zip(tally.tries, CHANGES.items(), strict=True):
        with tally.one(said):
            folder = tmp_path / (name or "stage")
            folder.mkdir()
            run = begun.copy(folder / "run")
            shutil.copy(begun.workdir.parent / "lists.jsonl", folder)
            change(run)
            # The path is a setting: that of the copy is accepted by the first line, not by the checkpoint.
            words = (*begun.command, f"--config.data.path={folder / 'lists.jsonl'}", f"--workdir={run}")
            accept = "--config.checkpoint.accept=config"
            line = refusal(capsys, *words, accept)
            assert line.startswith(f"rlhf-jax: error: {run / 'checkpoints'}")
            assert f"/1: of another run (old -> new): {said}" in line
            assert ("--config.checkpoint.accept=" in line) == bool(name)
            if name:
                tiny.launch(*words, f"{accept},{name}", report=False)
                assert f"accepted: {said}" in capsys.readouterr().out


def narrower(state: TrainState) -> TrainState:
    params = {**state.params, "embedding": state.params["embedding"][:, :8]}
    return dataclasses.replace(state, params=params)


def in_bfloat16(state: TrainState) -> TrainState:
    params = {**state.params, "embedding": state.params["embedding"].astype(jnp.bfloat16)}
    return dataclasses.replace(state, params=params)


def with_members(state: TrainState) -> TrainState:
    return dataclasses.replace(state, params=jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), state.params))


def without_moments(state: TrainState) -> TrainState:
    return dataclasses.replace(state, opt_state=())


def with_another_head(state: TrainState) -> TrainState:
    return dataclasses.replace(state, params={**state.params, "head": {"kernel": jnp.zeros(16)}})


MISFITS = {
    narrower: "params.embedding: float32[24,16] -> float32[24,8]",
    in_bfloat16: "params.embedding: float32[24,16] -> bfloat16[24,16]",
    with_members: "params.final_norm.scale: float32[16] -> float32[2,16]",
    without_moments: "rest.opt_state.0.mu.embedding: float32[24,16] -> none",
    with_another_head: "params.head.kernel: none -> float32[16]",
}


@pytest.mark.reliability("R12", tries=len(MISFITS))
def test_arrays_that_do_not_fit_are_refused_by_name(tally: Tally, tmp_path: pathlib.Path) -> None:
    """Shapes, types (which Orbax would cast), another optimizer, another head; the checkpoint is no damaged one."""
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(states.state(3), {})
        checkpoints.wait()
        for _, (change, said) in zip(tally.tries, MISFITS.items(), strict=True):
            with tally.one(said):
                with pytest.raises(UserError) as error:
                    checkpoints.restore_newest(change(states.state(3)))
                assert said in str(error.value)
                assert "\n" not in str(error.value)
                assert (tmp_path / "c" / "3").is_dir()
