"""A run whose every stage trains by adapters: what is frozen, what is shared, what a later run finds."""

import gc
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.build import make_context, make_task
from rlhf_jax.build.context import Context, load_parent, stage_decoder
from rlhf_jax.build.ppo_models import load_networks
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import from_json
from rlhf_jax.generation import response_logprobs
from rlhf_jax.main import main
from rlhf_jax.models import has_adapters
from tests.end_to_end import tiny

pytestmark = pytest.mark.slow
STAGES = ("sft", "reward", "ppo")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("lora") / "run"
    tiny.launch(
        f"--config={tiny.ROOT / 'configs' / 'lora.py'}",
        f"--workdir={workdir}",
        *tiny.SIZE,
        "--config.lora.rank=2",
        f"--config.lora.stages={','.join(STAGES)}",
        "--config.sft.steps=2",
        "--config.reward.steps=2",
        "--config.ppo.iterations=2",
        "--config.log.every=1",
        report=False,
    )
    return workdir


@pytest.fixture(scope="module")
def context(run: pathlib.Path) -> Context:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.context.load_data", tiny.load)
        return make_context(from_json((run / "config.json").read_text()), run)


def same(one: Any, other: Any) -> bool:
    leaves = jax.tree.leaves(jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, other))
    assert len(leaves) > 10
    return all(leaves)


def test_every_stage_moved_its_adapters_and_nothing_beneath_them(run: pathlib.Path, context: Context) -> None:
    state = tiny.state_of(run, "ppo")
    loaded = {
        "['policy']": load_parent(context, "sft", stage_decoder(context, "sft")),
        "['value']['decoder']": load_parent(context, "reward", stage_decoder(context, "reward"))["decoder"],
    }
    for where, parent in loaded.items():
        leaves = jax.tree_util.tree_leaves_with_path(parent)
        assert len(leaves) > 10
        for path, leaf in leaves:
            name = f"['params']{where}{jax.tree_util.keystr(path)}"
            assert state[name].tobytes() == np.asarray(leaf).tobytes(), name
    for stage in STAGES:
        found = tiny.state_of(run, stage)
        thin = {name: leaf for name, leaf in found.items() if "params" in name and "lora_b" in name}
        assert len(thin) == 7 * (2 if stage == "ppo" else 1)
        assert all(leaf.any() for leaf in thin.values())
        # Two moments of each A and B; of a head, where there is one, too.
        moments = [name for name in found if "opt_state" in name and ("['mu']" in name or "['nu']" in name)]
        assert len([name for name in moments if "lora_" in name]) == 4 * len(thin)
        assert all("lora_" in name or "head" in name for name in moments)


def test_the_reference_is_the_sft_policy_bit_for_bit_before_and_after_updates(context: Context) -> None:
    decoder = stage_decoder(context, "sft")
    frozen = load_networks(context, (), context.stage_key("ppo")).frozen
    task = make_task(context, "ppo")
    with Checkpoints(context.workdir / "checkpoints" / "ppo") as checkpoints:
        after, _ = checkpoints.restore(2, task.state)
    ids = jnp.arange(5, 13, dtype=jnp.int32)[None]
    score = jax.jit(lambda params: response_logprobs(decoder, params, ids, ids > 0, response_length=4, temperature=1.0))
    sft = load_parent(context, "sft", decoder)
    for state in (task.state, after):
        reference, reward = frozen(state.params)
        assert same(reference, sft)
        assert np.asarray(score(reference)).tobytes() == np.asarray(score(sft)).tobytes()
        assert same(reward, load_parent(context, "reward", stage_decoder(context, "reward")))
        owned = {id(leaf) for leaf in jax.tree.leaves(state.params)}
        assert all(id(leaf) in owned for leaf in jax.tree.leaves((reference, reward["decoder"]))), "no copies"
    assert np.abs(np.asarray(score(after.params["policy"])) - np.asarray(score(sft))).max() > 1e-6


def test_a_task_holds_no_second_model(context: Context) -> None:
    """All arrays that live because of PPO are the state and a head: neither reference nor reward model has its own."""
    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    task = make_task(context, "ppo")
    gc.collect()
    held = sum(array.nbytes for array in jax.live_arrays()) - before
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(task.state))
    decoder = sum(leaf.nbytes for leaf in jax.tree.leaves(load_parent(context, "sft", stage_decoder(context, "sft"))))
    assert state > 2 * decoder
    assert held < state + 0.2 * decoder


def test_a_run_without_adapters_goes_on_from_one_with_them(context: Context, run: pathlib.Path) -> None:
    config = from_json((run / "config.json").read_text())
    with config.unlocked():
        config.lora.update({"rank": 0, "stages": ()})
        config.parents.sft = config.parents.reward = str(run)
    shutil.copytree(run / "tokenizer", run.parent / "later" / "tokenizer")
    later = Context(config, run.parent / "later", context.executor, context.data, context.tokenizer)
    for stage in ("sft", "reward"):
        found = load_parent(later, stage, stage_decoder(later, stage))
        assert not has_adapters(found)
        assert same(found, load_parent(context, stage, stage_decoder(context, stage)))
    networks = load_networks(later, (), later.stage_key("ppo"))
    assert not has_adapters(networks.start)
    assert networks.frozen(networks.start) == (networks.reference, networks.reward)


def test_its_policy_leaves_merged_or_as_adapters(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for words in ([], ["--adapter"]):
        main(["export", str(run), "--stage=ppo", f"--out={tmp_path / 'out'}", "--overwrite", *words])
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2
