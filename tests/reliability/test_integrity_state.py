"""Every array that is saved decides how the run goes on."""

import pathlib
import random
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.build import inherit_model, make_context, make_task
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import from_json
from rlhf_jax.loop import Task
from rlhf_jax.types import TrainState
from tests.end_to_end import tiny
from tests.reliability import states
from tests.reliability.conftest import Tally

STEPS = 2  # made after the checkpoint
# What may be changed and nothing come of it, and why.
IDLE = {
    ("sft", ".key"): "SFT draws nothing: its batches are ordered by the seed, and there is no dropout",
    ("reward", ".key"): "nor does a reward model",
    ("sft", ".step"): "the loop's place in the run; updates are counted by the optimizer",
    ("reward", ".step"): "likewise",
}


@pytest.fixture(scope="module", autouse=True)
def _one_device() -> Iterator[None]:
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        patch.setattr("rlhf_jax.build.context.load_data", tiny.load)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two steps of each stage, and both saved."""
    workdir = tmp_path_factory.mktemp("state") / "run"
    words = (
        f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
        *tiny.SIZE,
        "--config.stages=sft,reward,ppo",
        "--config.sft.steps=4",
        "--config.reward.steps=4",
        "--config.ppo.iterations=4",
        "--config.ppo.normalize_reward=True",
        "--config.ppo.kl.controller=adaptive",
        "--config.checkpoint.every=2",
        "--config.checkpoint.every_iterations=2",
        "--config.sft.eval_every=100",
        "--config.reward.eval_every=100",
        "--config.ppo.eval_every=100",
        f"--workdir={workdir}",
    )
    tiny.launch(*words, report=False)
    return workdir


def changed(leaf: jax.Array) -> jax.Array:
    """Another value that could stand there: a second moment stays positive, a count a number."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(leaf, 1)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return leaf + 1
    return 1.5 * leaf + jnp.asarray(1e-3, leaf.dtype)


def trajectory(task: Task, start: TrainState, batches: list[Any]) -> tuple[dict[str, float], dict[str, bytes]]:
    """The metrics of the steps, and the arrays after the last by name."""
    state, metrics = jax.tree.map(jnp.copy, start), {}
    for number, batch in enumerate(batches):
        state, out = task.step(state, batch)
        metrics |= {f"{number}.{name}": value for name, value in task.finish(out).items() if name not in tiny.RATES}
    return metrics, {name: content for name, _, _, content in states.bits(state)}


def stage_task(run: pathlib.Path, stage: str) -> Task:
    config = from_json((run / "config.json").read_text())
    inherit_model(config)
    return make_task(make_context(config, run), stage)


def differs(stage: str, name: str, before: Any, after: Any) -> bool:
    """In a metric, or in any array but the changed one."""
    same = {one: content for one, content in before[1].items() if one != name}
    return before[0] != after[0] or any(after[1][one] != content for one, content in same.items())


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("sft", marks=pytest.mark.reliability("R19", tries=2, torture=37)),
        pytest.param("reward", marks=pytest.mark.reliability("R19", tries=2, torture=40)),
        pytest.param("ppo", marks=pytest.mark.reliability("R19", tries=2, torture=81)),
    ],
)
def test_each_array_of_a_saved_state_changes_how_the_run_goes_on(run: pathlib.Path, stage: str, tally: Tally) -> None:
    """Changed in a restored state, one after the other, it changes a metric or another array within two steps.

    The truth is the trajectory from the state as it was, which two runs of it agree on to the last bit. What may stand
    idle is listed with its reason, and has to be idle.
    """
    task = stage_task(run, stage)
    with Checkpoints(run / "checkpoints" / stage) as checkpoints:
        start, meta = checkpoints.restore(2, task.state)
    task.batches.set_state(meta["batches"])
    batches = [next(task.batches) for _ in range(STEPS)]
    before = trajectory(task, start, batches)
    assert trajectory(task, start, batches) == before
    paths, tree = jax.tree_util.tree_flatten_with_path(start)
    order = list(range(len(paths)))
    if len(tally.tries) < len(paths):
        random.Random(stage).shuffle(order)
    else:
        assert len(tally.tries) == len(paths), f"{len(paths)}: torture is to try all of them"
    for place in order[: len(tally.tries)]:
        name = jax.tree_util.keystr(paths[place][0])
        with tally.one(f"{stage}: {name}"):
            leaves = [changed(leaf) if number == place else leaf for number, (_, leaf) in enumerate(paths)]
            after = trajectory(task, jax.tree.unflatten(tree, leaves), batches)
            assert differs(stage, name, before, after) == ((stage, name) not in IDLE)


def test_batches_from_another_place_change_how_the_run_goes_on(run: pathlib.Path) -> None:
    """The place of the data is saved beside the arrays."""
    task = stage_task(run, "sft")
    with Checkpoints(run / "checkpoints" / "sft") as checkpoints:
        metas = [checkpoints.restore(step, task.state)[1] for step in (2, 4)]
    firsts = []
    for meta in metas:
        task.batches.set_state(meta["batches"])
        firsts.append(np.asarray(next(task.batches).ids))
    assert not np.array_equal(*firsts)
