"""Runs that start from the weights of a Hugging Face folder."""

import json
import pathlib
from functools import partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rlhf_jax.build import inherit_model
from rlhf_jax.build.context import make_context
from rlhf_jax.build.pretrained import folder_of, start_decoder
from rlhf_jax.build.reward import reward_task
from rlhf_jax.build.sft import sft_task
from rlhf_jax.build.specs import decoder_spec
from rlhf_jax.config import default_config, to_json, validate
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models import DecoderSpec, hf, init_decoder
from rlhf_jax.types import Params
from tests.end_to_end import tiny

WORDS = build_tokenizer("word")
# A Qwen3: heads of a size that the width does not give, and more tokens than the tokenizer has.
SPEC = DecoderSpec(
    vocab_size=WORDS.vocab_size + 3,
    width=16,
    depth=1,
    heads=2,
    kv_heads=1,
    mlp_width=24,
    max_positions=40,
    head_size=6,
    qk_norm=True,
    tied=False,
)


@pytest.fixture(autouse=True)
def _slice_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_jax.build.context.load_data", tiny.load)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("models") / "qwen3"
    path.mkdir()
    hf.save(path, SPEC, jax.jit(partial(init_decoder, SPEC))(jax.random.key(9)), pad_id=0, eos_id=1)
    save_tokenizer(WORDS, path)
    return path


def _config(folder: pathlib.Path) -> ConfigDict:
    config = default_config()
    config.model.path, config.tokenizer.kind, config.stages = str(folder), "pretrained", ("sft",)
    config.sft.batch_size = config.reward.batch_size = 8
    return config


def _same(ours: Params, theirs: Params) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sizes_are_those_of_the_folder(folder: pathlib.Path) -> None:
    config = _config(folder)
    config.model.dtype = "bfloat16"
    inherit_model(config)
    assert (config.model.width, config.model.kv_heads, config.model.max_positions) == (16, 1, 40)
    assert config.model.tied is False
    spec = decoder_spec(config.model, WORDS.vocab_size)
    assert (spec.head_size, spec.qk_norm, spec.dtype, spec.vocab_size) == (6, True, "bfloat16", SPEC.vocab_size)
    assert decoder_spec(config.model, 500).vocab_size == 500
    inherit_model(config)  # a run that goes on has them already


def test_adapters_are_judged_by_the_folders_sizes(folder: pathlib.Path) -> None:
    """Before those are known nothing is said: the defaults' width of 64 is not divisible by 3."""
    config = _config(folder)
    config.lora.rank, config.lora.stages, config.lora.base, config.parallel.fsdp = 2, ("sft",), "nf4", 3
    validate(config)
    with pytest.raises(UserError, match=r"^config\.lora\.base: nf4 .* config\.model\.width=16 is not divisible"):
        inherit_model(config)
    config.parallel.fsdp = 2
    inherit_model(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.width": 32}, r"^config\.model\.width: 32, but .*qwen3 has 16$"),
        ({"data.max_prompt": 30, "sft.row_length": 64}, r"^config\.model\.max_positions: 40 in .* = 50 tokens$"),
        (
            {"lora.rank": 17, "lora.stages": ("sft",)},
            r"^config\.lora\.rank: 17 is more than config\.model\.width=16; no kernel",
        ),
        (
            {"model.path": "nobody/has-this"},
            r"^config\.model\.path: nobody/has-this: no such folder, and not to be had",
        ),
    ],
)
def test_what_does_not_fit_the_folder_is_refused(changes: dict[str, object], words: str, folder: pathlib.Path) -> None:
    config = _config(folder)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        inherit_model(config)


def test_of_a_hub_name_json_and_safetensors_alone_are_asked_for(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert folder_of("owner/name", weights=False) == folder_of("owner/name", weights=True) == folder
    assert asked == [("owner/name", ["config.json"]), ("owner/name", ["*.json", "*.safetensors"])]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer.kind": "word"}, r"^config\.tokenizer\.kind: word does not give the ids of config\.model\.path"),
        ({"stages": ("sft", "critique"), "critique.init": "scratch"}, r"^config\.critique\.init: scratch would leave"),
        ({"stages": ("segments",), "segments.init": "scratch"}, r"^config\.segments\.init: scratch would leave"),
    ],
)
def test_settings_that_would_not_use_the_folder_are_refused(
    changes: dict[str, object], words: str, folder: pathlib.Path
) -> None:
    config = _config(folder)
    validate(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        validate(config)


def test_sft_and_a_reward_model_from_scratch_begin_with_the_folder(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = _config(folder)
    config.stages, config.reward.init, config.parallel.fsdp = ("sft", "reward"), "scratch", 2
    inherit_model(config)
    context = make_context(config, tmp_path)
    wanted = hf.load(folder)[1]
    started = sft_task(context).state.params
    _same(started, wanted)
    _same(reward_task(context, "reward").state.params["decoder"], wanted)
    assert context.tokenizer.encode("open") == WORDS.encode("open")
    spec = decoder_spec(config.model, context.tokenizer.vocab_size)
    placed = start_decoder(config, context.executor, spec, jax.random.key(0))
    shardings = context.executor.shardings(placed, "state")
    assert jax.tree.map(lambda leaf: leaf.sharding, placed) == shardings


def test_a_child_takes_the_folder_over_from_its_parent(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    parent = _config(folder)
    inherit_model(parent)
    (tmp_path / "config.json").write_text(to_json(parent))
    child = default_config()
    child.stages, child.parents.sft, child.parents.reward = ("ppo",), str(tmp_path), str(tmp_path)
    inherit_model(child)
    assert json.loads(to_json(child))["model"] == json.loads(to_json(parent))["model"]
    assert decoder_spec(child.model, WORDS.vocab_size).qk_norm
