"""A reward of 0.73 is 0.73 in the rollout, in the metrics and in the samples: it is never cut to 0."""

import math
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rlhf_jax.build.context import init_scored, load_parent, make_context, stage_config
from rlhf_jax.build.specs import decoder_spec, reward_bounded, rollout_spec
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import default_config, to_json, utility
from rlhf_jax.data.examples import prompt_rows
from rlhf_jax.data.loader import prompt_eval_batches
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.generation import sample_rollout
from rlhf_jax.learners.step import init_state
from rlhf_jax.metrics import read_jsonl, read_summary
from rlhf_jax.models import init_decoder
from rlhf_jax.types import Params
from tests.end_to_end import tiny

REWARD = 0.73


def _run(folder: pathlib.Path, config: ConfigDict, stage: str, params: Params) -> str:
    """A run directory as a child sees it: configuration, tokenizer and a checkpoint of ``stage``."""
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    save_tokenizer(build_tokenizer("word"), folder / "tokenizer")
    with Checkpoints(folder / "checkpoints" / stage) as checkpoints:
        state = init_state(params, optax.identity(), jax.random.key(0))
        checkpoints.save(state, {})
    return str(folder)


@pytest.fixture(params=["negative_power", "log_sigmoid"], ids=["bounded", "unbounded"])
def child(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> ConfigDict:
    """A PPO run whose reward model says 0.73 to everything: its last norm lets through a constant alone."""
    parent = default_config()
    parent.model.norm = "layer"
    parent.model.update({"width": 16, "depth": 1, "heads": 2, "kv_heads": 1, "mlp_width": 32})
    parent.reward.utility = utility(request.param)
    spec = decoder_spec(parent.model, build_tokenizer("word").vocab_size)
    scored = init_scored(spec, jax.random.key(1))
    logit = math.log(REWARD / (1 - REWARD)) if request.param == "negative_power" else REWARD
    scored["decoder"]["final_norm"] = {"scale": jnp.zeros(16), "bias": jnp.eye(16)[0]}
    scored["head"] = {"kernel": logit * jnp.eye(16)[0]}
    config = default_config()
    config.stages = ("ppo",)
    config.model.update(parent.model)
    config.parents.sft = _run(tmp_path / "sft", parent, "sft", init_decoder(spec, jax.random.key(0)))
    config.parents.reward = _run(tmp_path / "reward", parent, "reward", scored)
    config.ppo.missing_eos.rule = "none"
    config.ppo.prompts_per_iteration, config.ppo.samples_per_prompt = 16, 1
    config.ppo.epochs, config.ppo.minibatches, config.ppo.iterations = 1, 2, 2
    return config


def test_in_the_rollout(child: ConfigDict, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_jax.build.context.load_data", tiny.load)
    context = make_context(child, tmp_path)
    tokenizer, spec = context.tokenizer, decoder_spec(child.model, context.tokenizer.vocab_size)
    policy, reward = (load_parent(context, stage, spec) for stage in ("sft", "reward"))
    bounded = reward_bounded(stage_config(child, "reward").reward)
    rolling = rollout_spec(child, spec, spec, bounded=bounded, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    rows = prompt_rows(context.data.prompts_validation, tokenizer, child.data.max_prompt)[0]
    batch = next(prompt_eval_batches(rows, 8, child.data.max_prompt, tokenizer.pad_id))
    batch = jax.tree.map(jnp.asarray, batch)
    neutral = {"reward_bias": jnp.float32(0.0), "reward_gain": jnp.float32(1.0)}
    roll = jax.jit(partial(sample_rollout, rolling))
    rollout = roll(policy, reward, policy, reward, batch, jax.random.key(0), **neutral)
    np.testing.assert_allclose(rollout.raw_scores, REWARD, rtol=1e-6)
    np.testing.assert_allclose(rollout.scores, REWARD, rtol=1e-6)


def test_in_all_that_a_run_writes(child: ConfigDict, tmp_path: pathlib.Path) -> None:
    (tmp_path / "child.json").write_text(to_json(child))
    run = tmp_path / "run"
    tiny.launch(f"--config={tmp_path / 'child.json'}", f"--workdir={run}", report=False)
    rows = [row["metrics"] for row in read_jsonl(run / "metrics.jsonl")]
    found = [metrics[name] for metrics in rows for name in metrics if name.endswith("reward.mean")]
    assert len(found) == 3  # two iterations and the held-out prompts
    assert found == pytest.approx([REWARD] * 3, rel=1e-6)
    assert read_summary(run)["ppo.reward.mean"] == pytest.approx(REWARD, rel=1e-6)
    samples = read_jsonl(run / "samples" / "ppo" / "2.jsonl")
    assert [row["proxy"] for row in samples] == pytest.approx([REWARD] * len(samples), rel=1e-6)
