"""What a dry run says is what a run would make."""

import pathlib
import re

import jax
import pytest
from ml_collections import ConfigDict

from rlhf_jax.build import Context, describe_plan, inherit_model, make_context, make_task, saved_bytes
from rlhf_jax.build.plan import activation_bytes, count_parameters
from rlhf_jax.config import default_config, to_json, utility
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse
from rlhf_jax.models import DecoderSpec, init_decoder, init_reward_model
from rlhf_jax.types import Params
from tests.end_to_end import tiny

QUICKSTART = f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}"


@pytest.fixture(autouse=True)
def _slice_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_jax.build.plan.load_data", tiny.load)


def _decoder(v: int, d: int, layers: int, f: int, heads: int, kv: int) -> int:
    """By hand: embedding; per layer q, k, v, o, three feed-forward matrices and two norms; the last norm."""
    size = d // heads
    attention = 2 * d * heads * size + 2 * d * kv * size
    return v * d + layers * (attention + 3 * d * f + 2 * d) + d


def _numbers(plan: str, stage: str) -> tuple[int, int]:
    found = re.search(rf"^stage {stage}: .* ([\d,]+) trained and ([\d,]+) frozen parameters", plan, re.M)
    assert found is not None, plan
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def _vocabulary(plan: str) -> int:
    found = re.search(r"vocabulary ([\d,]+)", plan)
    assert found is not None, plan
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_the_count_is_that_of_the_parameters_made(tied: bool, positions: str, activation: str) -> None:
    spec = DecoderSpec(
        vocab_size=31,
        width=8,
        depth=2,
        heads=2,
        kv_heads=1,
        mlp_width=12,
        tied=tied,
        positions=positions,
        activation=activation,
        max_positions=10,
    )
    made = init_decoder(spec, jax.random.key(0))
    assert count_parameters(spec) == sum(leaf.size for leaf in jax.tree.leaves(made))


def test_the_plan_counts_what_each_stage_trains_and_what_it_keeps() -> None:
    config = default_config()
    config.stages = ("sft", "reward", "ppo")
    plan = describe_plan(config, pathlib.Path("runs/a"))
    decoder = _decoder(_vocabulary(plan), 64, 2, 128, 4, 2)
    reward = decoder + 64  # a reward head has no bias, a value head has one
    assert f"model: {decoder:,} parameters" in plan
    assert _numbers(plan, "sft") == (decoder, 0)
    assert _numbers(plan, "reward") == (reward, 0)
    assert _numbers(plan, "ppo") == (decoder + reward + 1, decoder + reward)
    assert plan.endswith("run directory: runs/a")
    config.reward.ensemble.members = 5
    plan = describe_plan(config, None)
    assert _numbers(plan, "reward") == (5 * reward, 0)
    assert _numbers(plan, "ppo") == (decoder + reward + 1, decoder + 5 * reward)
    config.reward.ensemble.kind = "heads"
    assert _numbers(describe_plan(config, None), "reward") == (decoder + 5 * 64, 0)


def test_direct_methods_keep_a_reference_and_online_a_judge_too() -> None:
    config = default_config()
    config.stages = ("sft", "reward", "dpo", "online")
    plan = describe_plan(config, None)
    decoder = _decoder(_vocabulary(plan), 64, 2, 128, 4, 2)
    assert _numbers(plan, "dpo") == _numbers(plan, "online") == (decoder, decoder + decoder + 64)
    config.dpo.loss, config.dpo.reference = "simpo", "none"  # held-out figures compare with the SFT policy all the same
    assert _numbers(describe_plan(config, None), "dpo") == (decoder, decoder + decoder + 64)
    config.stages = ("sft", "dpo")
    assert _numbers(describe_plan(config, None), "dpo") == (decoder, decoder)


@pytest.mark.parametrize(("stage", "every"), [("online", 0), ("online", 2)])
def test_the_bytes_of_a_checkpoint_are_those_of_the_state_that_a_stage_starts_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stage: str, every: int
) -> None:
    """A reference that is renewed is in it."""

    def fresh(own: Context, stage: str, spec: DecoderSpec) -> Params:
        init = init_decoder if stage == "sft" else init_reward_model
        return own.executor.place(init(spec, jax.random.key(1)), "state")

    monkeypatch.setattr("rlhf_jax.build.context.load_data", tiny.load)
    for module in ("answers", "online"):
        monkeypatch.setattr(f"rlhf_jax.build.{module}.load_parent", fresh)
    config = parse([QUICKSTART, "--dry_run", *tiny.SIZE, f"--config.stages=sft,reward,{stage}"]).config
    config.online.reference_every = every
    context = make_context(config, tmp_path)
    state = make_task(context, stage).state
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state, state.extra)))
    told = saved_bytes(config, context.tokenizer.vocab_size)[stage]
    assert 0 <= arrays - told < 300  # the learner's scalars


def test_a_head_that_is_trained_alone_and_updates_in_parts() -> None:
    """Of a vocabulary so large that the logits are most of the memory, no more exist than the loss reads at once."""
    config = default_config()
    config.stages, config.reward.train = ("sft", "reward"), "head"
    plan = describe_plan(config, None)
    assert _numbers(plan, "reward") == (64, _decoder(_vocabulary(plan), 64, 2, 128, 4, 2))
    spec = DecoderSpec(vocab_size=50_000, width=8, depth=1, heads=1, kv_heads=1, mlp_width=1)
    assert activation_bytes(spec, 16, 64, 64) == 4 * (16 * 64 * (64 + 3 + 64) + 2 * 16 * 16 * 50_000)
    assert activation_bytes(spec, 512, 64, 64) == 4 * (512 * 64 * (64 + 3 + 64) + 2 * 512 * 50_000)

    def memory(stage: str) -> int:
        found = re.search(rf"^stage {stage}: .* about ([\d,]+) MiB", describe_plan(config, None), re.M)
        assert found is not None
        return int(found[1].replace(",", ""))

    config.stages, config.reward.train = ("sft", "reward", "ppo", "dpo"), "all"
    config.sft.batch_size = config.reward.batch_size = config.dpo.batch_size = config.ppo.prompts_per_iteration = 512
    config.ppo.minibatches = 1
    for stage in config.stages:
        whole = memory(stage)
        config[stage].accumulate = 8
        assert memory(stage) < whole / 3


def test_the_plan_of_adapters_counts_them_alone_as_trained() -> None:
    """By hand, for rank 4 on q (64 x 64) and v (64 x 32) of two layers; the reference and the reward model are the
    frozen policy and the frozen value model, but for the reward model's head.
    """
    config = default_config()
    whole = describe_plan(config, None)
    config.lora.update({"rank": 4, "stages": ("sft", "reward", "ppo")})
    plan = describe_plan(config, None)
    decoder, adapters = _decoder(_vocabulary(plan), 64, 2, 128, 4, 2), 2 * 4 * (64 + 64 + 64 + 32)
    assert _numbers(plan, "sft") == (adapters, decoder)
    assert _numbers(plan, "reward") == (adapters + 64, decoder)
    assert _numbers(plan, "ppo") == (2 * adapters + 64 + 1, 2 * decoder + 64)
    assert sum(_numbers(plan, "ppo")) < 0.6 * sum(_numbers(whole, "ppo"))
    config.ppo.value.init = "zero"  # a value model that starts as the policy: the reward model has its own decoder
    assert _numbers(describe_plan(config, None), "ppo") == (2 * adapters + 64 + 1, 3 * decoder + 64)
    config.ppo.value.init = "reward"
    config.stages = config.lora.stages = ("sft", "reward", "dpo", "online")
    plan = describe_plan(config, None)
    assert _numbers(plan, "dpo") == (adapters, 2 * decoder + 64)
    assert _numbers(plan, "online") == (adapters, 2 * decoder + 64)
    config.stages = config.lora.stages = ("sft", "reward", "ppo")
    config.reward.ensemble.members = 3
    plan = describe_plan(config, None)
    assert _numbers(plan, "reward") == (3 * (adapters + 64), 3 * decoder)
    assert _numbers(plan, "ppo") == (2 * adapters + 64 + 1, 2 * decoder + 3 * (decoder + 64))
    config.lora.stages = ("sft",)
    assert _numbers(describe_plan(config, None), "ppo") == (2 * decoder + 65, decoder + 3 * (decoder + 64))


def _parent(folder: pathlib.Path, width: int) -> ConfigDict:
    (folder / "checkpoints" / folder.name).mkdir(parents=True)
    config = default_config()
    config.model.width = width
    (folder / "config.json").write_text(to_json(config))
    save_tokenizer(build_tokenizer("byte"), folder / "tokenizer")
    return config


def test_a_plan_with_parents_is_of_their_models_and_their_tokenizer(tmp_path: pathlib.Path) -> None:
    for name, width in (("sft", 16), ("reward", 32)):
        _parent(tmp_path / name, width)
    config = default_config()
    config.stages = ("ppo",)
    config.parents.sft, config.parents.reward = str(tmp_path / "sft"), str(tmp_path / "reward")
    inherit_model(config)
    plan = describe_plan(config, None)
    policy, reward = _decoder(258, 16, 2, 128, 4, 2), _decoder(258, 32, 2, 128, 4, 2) + 32
    assert _numbers(plan, "ppo") == (policy + reward + 1, policy + reward)
    config.parents.reward = config.parents.sft
    with pytest.raises(UserError, match=r"config\.parents\.reward: no checkpoints in .*/sft/checkpoints/reward$"):
        describe_plan(config, None)


def test_a_head_of_which_nothing_would_be_held_out_is_no_fault(tmp_path: pathlib.Path) -> None:
    """The share held out is of the whole file; of its first 200 rows it may well be none."""
    config = default_config()
    config.data.path, config.tokenizer.kind = str(tiny.lists_file(tmp_path / "lists.jsonl")), "bpe"
    config.data.validation_fraction = 1e-6
    config.tokenizer.vocab_size = 999
    plan = describe_plan(config, None)
    assert "48 rows of format lists looked at" in plan
    assert _vocabulary(plan) == 999


def test_a_misspelt_prompt_type_is_told_once_all_of_a_file_was_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"{n}?", "prompt_type": "fact", "responses": [{"text": "a"}, {"text": "b"}]} for n in range(9)]
    config = default_config()
    config.data.path, config.tokenizer.kind = str(tiny.write_jsonl(tmp_path / "lists.jsonl", rows)), "byte"
    config.reward.utility_by_type.facts = utility("log")
    with pytest.raises(UserError, match=r"^config\.reward\.utility_by_type\.facts: no prompt .*; did you mean fact\?$"):
        describe_plan(config, None)
    monkeypatch.setattr("rlhf_jax.build.plan.HEAD_ROWS", 9)  # such a prompt may come later
    assert "9 rows of format lists looked at" in describe_plan(config, None)


def test_critiques_of_a_models_own_take_rows_of_their_own() -> None:
    def memory(source: str) -> int:
        config = default_config()
        config.stages, config.critique.source = ("sft", "critique"), source
        plan = describe_plan(config, None)
        assert "700 steps of 8 lists of 8, critiques up to 16 tokens" in plan
        assert _numbers(plan, "critique")[1] == 0
        found = re.search(r"^stage critique: .* about ([\d,]+) MiB", plan, re.M)
        assert found is not None, plan
        return int(found[1].replace(",", ""))

    assert memory("own") == memory("mixed") > 1.5 * memory("data")
