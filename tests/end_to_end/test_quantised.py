"""A run whose stages train by adapters over a base of four bits: what stays bit for bit, what a resumed run repeats."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from rlhf_jax.build import make_context, make_task
from rlhf_jax.build.context import load_parent, stage_decoder
from rlhf_jax.build.ppo_models import load_networks
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import from_json
from rlhf_jax.main import main
from rlhf_jax.models import quantised, without_adapters
from tests.end_to_end import tiny

pytest.importorskip("qwix")
WORDS = (
    f"--config={tiny.ROOT / 'configs' / 'lora.py'}",
    *tiny.SIZE,
    "--config.lora.rank=2",
    "--config.lora.base=nf4",
    "--config.log.every=1",
    "--config.checkpoint.every_iterations=1",
    "--config.reward.steps=2",
    "--config.sft.steps=2",
    "--config.ppo.iterations=2",
)


@pytest.mark.slow
def test_reward_model_and_ppo_over_four_bits(tmp_path: pathlib.Path) -> None:
    run, cut = tmp_path / "run", tmp_path / "cut"
    tiny.launch(*WORDS, "--config.lora.stages=reward,ppo", f"--workdir={run}", report=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.context.load_data", tiny.load)
        context = make_context(from_json((run / "config.json").read_text()), run)
    sft = load_parent(context, "sft", stage_decoder(context, "sft"))
    beneath = jax.tree.leaves(jax.jit(lambda params: quantised("nf4", params))(sft))
    task, frozen = make_task(context, "ppo"), load_networks(context, (), context.stage_key("ppo")).frozen
    with Checkpoints(run / "checkpoints" / "ppo") as checkpoints:
        states = [checkpoints.restore(step, task.state)[0] for step in (1, 2)]
    for state in (task.state, *states):
        reference = frozen(state.params)[0]
        for found, expected in zip(jax.tree.leaves(reference), beneath, strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    before, after = (jax.tree.leaves(state.params) for state in states)
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)), "adapters moved"
    owned = {id(leaf) for leaf in jax.tree.leaves(states[1].params)}
    assert all(id(leaf) in owned for leaf in jax.tree.leaves(frozen(states[1].params)[0])), "no copies"

    # The policy leaves as a whole model in float32, or its base does, dequantised.
    for words in ([], ["--base"], ["--adapter"]):
        main(["export", str(run), "--stage=ppo", f"--out={tmp_path / 'out'}", "--overwrite", *words])
    assert without_adapters(states[1].params["policy"])["layers"]["up"].keys() == {"kernel_codes", "kernel_scale"}

    # Stopped after one iteration and started again, the run ends in the same bits.
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "checkpoints" / "ppo" / "2")
    (cut / "summary.json").unlink()  # which says that the stages have ended
    tiny.launch(*WORDS, "--config.lora.stages=reward,ppo", f"--workdir={cut}", report=False)
    one, other = (tiny.state_of(where, "ppo") for where in (run, cut))
    assert one.keys() == other.keys()
    differing = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    assert not differing
