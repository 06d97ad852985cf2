"""What the stages of a run share: devices, data, tokenizer, and the runs that it goes on from."""

import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rlhf_jax.build import inherit_model
from rlhf_jax.build.context import (
    Context,
    check_sizes,
    init_scored,
    load_parent,
    made_by,
    make_context,
    make_executor,
    parents_tokenizer,
    restore,
    stage_config,
    stage_decoder,
    stage_directory,
)
from rlhf_jax.build.data import Data, fresh_tokenizer
from rlhf_jax.build.reward import reward_task
from rlhf_jax.build.specs import decoder_spec
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import default_config, from_json, to_json
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.learners.step import init_state
from rlhf_jax.main import main
from rlhf_jax.parallel import PmapExecutor
from rlhf_jax.types import TrainState
from tests.end_to_end import tiny


@pytest.fixture(autouse=True)
def _slice_of_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_jax.build.context.load_data", tiny.load)


def _parent(folder: pathlib.Path, kind: str = "byte", **model: int) -> str:
    """A run directory with what children read first: its configuration and its tokenizer."""
    folder.mkdir()
    config = default_config()
    config.model.update(model)
    (folder / "config.json").write_text(to_json(config))
    texts = ["la la la la lo lo lo"] if kind == "bpe" else ()
    save_tokenizer(build_tokenizer(kind, 300, texts=texts), folder / "tokenizer")
    return str(folder)


def _child(**parents: str) -> ConfigDict:
    config = default_config()
    config.stages = ("ppo",)
    config.parents.update(parents)
    return config


# ------------------------------------------------------------------------------ rows and devices


def test_devices_that_do_not_fill_the_mesh_are_an_error_naming_the_section() -> None:
    config = default_config().parallel
    config.fsdp = 3
    with pytest.raises(UserError, match=r"^config\.parallel: "):
        make_executor(config)
    config.fsdp, config.mode, config.data = 1, "pmap", 2
    with pytest.raises(UserError, match=r"^config\.parallel\.data: 2, but there are 8 devices for pmap$"):
        make_executor(config)
    config.data = 8
    assert isinstance(make_executor(config), PmapExecutor)


def test_rows_are_shared_over_data_and_fsdp_but_not_tensor() -> None:
    config = default_config().parallel
    config.fsdp, config.tensor = 2, 2
    assert make_executor(config).row_shards == 4


# ------------------------------------------------------------------------------ keys


def test_stages_share_no_randomness_and_depend_on_the_seed_alone(tmp_path: pathlib.Path) -> None:
    def keys(config: ConfigDict) -> list[bytes]:
        context = make_context(config, tmp_path)
        stages = ("sft", "reward", "reward_common", "ppo")
        return [jax.random.key_data(context.stage_key(stage)).tobytes() for stage in stages]

    config = default_config()
    first = keys(config)
    assert len(set(first)) == 4
    config.stages = ("reward",)
    assert keys(config) == first
    config.seed = 1
    assert not set(keys(config)) & set(first)


# ------------------------------------------------------------------------------ tokenizers


def test_a_run_keeps_its_tokenizer(tmp_path: pathlib.Path) -> None:
    config = default_config()
    made = make_context(config, tmp_path).tokenizer
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
    assert not (tmp_path / "tokenizer.partial").exists()
    config.tokenizer.kind = "byte"  # what is on disk wins: the checkpoints beside it were trained with it
    assert make_context(config, tmp_path).tokenizer.vocab_size == made.vocab_size


def test_parents_with_different_tokenizers_are_refused(tmp_path: pathlib.Path) -> None:
    config = _child(sft=_parent(tmp_path / "a"), reward=_parent(tmp_path / "b", "bpe"))
    with pytest.raises(
        UserError, match=r"^config\.parents: .*b/tokenizer and .*a/tokenizer hold different tokenizers$"
    ):
        parents_tokenizer(config)


def test_a_child_takes_its_parents_tokenizer(tmp_path: pathlib.Path) -> None:
    config = _child(sft=_parent(tmp_path / "a", "bpe"), reward=_parent(tmp_path / "b", "bpe"))
    found = make_context(config, tmp_path).tokenizer
    assert found.encode("la lo") == build_tokenizer("bpe", 300, texts=["la la la la lo lo lo"]).encode("la lo")
    assert parents_tokenizer(default_config()) is None


def test_a_parent_without_a_tokenizer_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    config = _child(sft=_parent(tmp_path / "a"), reward=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"^config\.parents\.reward: no tokenizer in .*empty"):
        parents_tokenizer(config)


def _data(words: str, held_out: str) -> Data:
    def lists(text: str) -> list[Record]:
        return [Record("1", text, (Response(text, 0), Response(f"{text}!", 1)))]

    train, validation = lists(words), lists(held_out)
    return Data([], [], train, validation, train, validation, None)


def test_pairs_are_learned_from_the_training_records_only() -> None:
    config = default_config()
    config.tokenizer.kind, config.tokenizer.vocab_size = "bpe", 300
    words, strange = "lala lolo lala lolo", "zqzq zqzq zqzq zqzq zqzq"
    tokenizer = fresh_tokenizer(config, _data(words, strange))
    assert tokenizer.backend.get_vocab() == fresh_tokenizer(config, _data(words, "x")).backend.get_vocab()
    assert len(tokenizer.encode("lala")) == 1
    assert len(tokenizer.encode("zqzq")) == 4
    assert len(fresh_tokenizer(config, _data(strange, words)).encode("zqzq")) == 1


# ------------------------------------------------------------------------------ parents


def test_the_model_of_the_parent_is_taken_over(tmp_path: pathlib.Path) -> None:
    config = _child(sft=_parent(tmp_path / "a", width=16, heads=2, kv_heads=1), reward=_parent(tmp_path / "b"))
    inherit_model(config)
    assert (config.model.width, config.model.heads, config.model.kv_heads) == (16, 2, 1)


def test_models_of_parents_are_computed_by_the_means_of_this_run(tmp_path: pathlib.Path) -> None:
    theirs = {"width": 16, "attention": "splash", "remat": "full"}
    config = _child(sft=_parent(tmp_path / "a", **theirs), reward=_parent(tmp_path / "b", **theirs))
    config.model.attention, config.model.remat = "plain", "dots"
    inherit_model(config)
    context = Context(config, tmp_path, make_executor(config.parallel), _data("a", "b"), build_tokenizer("byte"))
    for stage in ("sft", "reward", "ppo"):
        spec = stage_decoder(context, stage)
        assert (spec.width, spec.attention, spec.remat) == (16, "plain", "dots")
    config.model.attention = "cudnn"
    with pytest.raises(UserError, match=r"^config\.model\.attention: cudnn needs an Nvidia GPU, and this is a cpu$"):
        check_sizes(config, context.executor)
    config.model.attention = "plain"
    check_sizes(config, context.executor)


def test_padding_is_left_out_on_one_device_alone() -> None:
    """A stage without rollouts has nothing to leave out."""
    config = default_config()
    config.ppo.unpad, config.stages = "yes", ("sft", "reward", "ppo")
    one, eight = make_executor(config.parallel, jax.devices()[:1]), make_executor(config.parallel)
    text = "8 devices work on whole rows, padding and all; auto or no would do, or one device"
    with pytest.raises(UserError, match=rf"^config\.ppo\.unpad: yes: {text}$"):
        check_sizes(config, eight)
    check_sizes(config, one)
    for word in ("auto", "no"):
        config.ppo.unpad = word
        check_sizes(config, eight)
    config.ppo.unpad, config.stages = "yes", ("sft", "reward")
    check_sizes(config, eight)


def test_another_model_than_the_parents_is_refused(tmp_path: pathlib.Path) -> None:
    config = _child(sft=_parent(tmp_path / "a", width=16), reward=_parent(tmp_path / "b"))
    config.model.width = 32
    with pytest.raises(UserError, match=r"^config\.model\.width: 32, but .*a was trained with 16$"):
        inherit_model(config)
    config.model.width = 16  # to say the same is no contradiction
    inherit_model(config)


def test_texts_longer_than_the_parents_positions_are_refused(tmp_path: pathlib.Path) -> None:
    config = _child(sft=_parent(tmp_path / "a", max_positions=40), reward=_parent(tmp_path / "b"))
    config.data.max_prompt = 100
    with pytest.raises(UserError, match=r"^config\.model\.max_positions: 40 is less than "):
        inherit_model(config)


def test_a_parent_without_a_configuration_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^config\.parents\.sft: .*config\.json does not exist$"):
        inherit_model(_child(sft=str(tmp_path / "empty")))


def test_checkpoints_and_configurations_are_the_parents_where_there_is_one(tmp_path: pathlib.Path) -> None:
    config = _child(sft=_parent(tmp_path / "a", width=32))
    context = Context(
        config, tmp_path / "own", make_executor(config.parallel), _data("a", "b"), build_tokenizer("byte")
    )
    assert stage_directory(context, "sft") == tmp_path / "a" / "checkpoints" / "sft"
    assert stage_directory(context, "reward") == tmp_path / "own" / "checkpoints" / "reward"
    assert stage_config(config, "sft").model.width == 32
    assert stage_config(config, "reward") is config


def test_a_reward_model_goes_on_from_another_ones_parameters(tmp_path: pathlib.Path) -> None:
    parent = _parent(tmp_path / "a", width=16, heads=2, kv_heads=1, depth=1, mlp_width=32)
    config = default_config()
    config.stages, config.reward.init, config.parents.reward_start = ("reward",), "reward", parent
    inherit_model(config)
    assert config.model.width == 16
    context = Context(
        config, tmp_path / "own", make_executor(config.parallel), _data("a", "b"), build_tokenizer("byte")
    )
    spec = decoder_spec(config.model, context.tokenizer.vocab_size)
    theirs = init_scored(spec, jax.random.key(5))
    with Checkpoints(tmp_path / "a" / "checkpoints" / "reward") as checkpoints:
        checkpoints.save(init_state(theirs, optax.identity(), jax.random.key(0)), {})
    jax.tree.map(np.testing.assert_array_equal, reward_task(context, "reward").state.params, theirs)


def test_a_reward_model_on_an_inherited_policy_says_what_it_is(tmp_path: pathlib.Path) -> None:
    """The chain sft (width 16) -> reward run -> PPO run, each reading only the one before it."""
    sft = _parent(tmp_path / "sft", width=16)
    config = default_config()
    config.stages, config.parents.sft = ("reward",), sft
    inherit_model(config)
    assert from_json(to_json(config)).model.width == 16


def test_a_parent_whose_numbers_are_not_finite_is_refused(tmp_path: pathlib.Path) -> None:
    """By the folder and the name of the array."""
    params = {"head": {"kernel": jax.numpy.asarray([1.0, np.nan])}, "scale": jax.numpy.ones(2)}
    config, folder = default_config(), tmp_path / "sft"
    context = SimpleNamespace(
        config=config,
        workdir=tmp_path,
        executor=make_executor(config.parallel),
        tokenizer=build_tokenizer("byte"),
        read={},
    )
    with Checkpoints(folder, identity=made_by(context, "sft")) as checkpoints:
        checkpoints.save(TrainState(jax.numpy.int32(3), params, (jax.numpy.ones(2),), jax.random.key(0), {}), {})
    with pytest.raises(UserError, match=rf"^config\.parents\.sft: {folder}/3: head/kernel: not finite"):
        restore(context, folder, "config.parents.sft", lambda _: params)


# ------------------------------------------------------------------------------ folders that are no runs


def _model_folder(folder: pathlib.Path) -> pathlib.Path:
    """What ``export`` and everybody else leave of a model, without its weights."""
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": 8}')
    return folder


@pytest.mark.parametrize("name", list(default_config().parents))
def test_a_hugging_face_folder_is_no_parent(tmp_path: pathlib.Path, name: str) -> None:
    folder = _model_folder(tmp_path / "model")
    config = _child(sft=_parent(tmp_path / "sft"))
    config.parents[name] = str(folder)
    if name == "reward_start":
        config.stages, config.reward.init = ("reward",), "reward"
        config.parents.sft = ""
    with pytest.raises(UserError, match=r"a Hugging Face model folder, not a run directory$") as caught:
        inherit_model(config)
    assert str(caught.value).startswith(f"config.parents.{name}: {folder}: ")


@pytest.mark.parametrize(
    "words",
    [
        ["export", "--stage=sft", "--out=out"],
        ["evaluate"],
        ["best-of-n", "--n=2"],
        ["chat", "--out=out.jsonl"],
        ["collapse"],
        ["report"],
        ["labels", "to-labelstudio", "--out=out"],
    ],
    ids=lambda words: words[0],
)
def test_a_hugging_face_folder_is_no_run(
    tmp_path: pathlib.Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _model_folder(tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        main([*words, "model"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "rlhf-jax: error: model: a Hugging Face model folder, not a run directory\n"
    with pytest.raises(SystemExit):
        main(["--config=model/config.json", "--dry_run"])
    assert "model: a Hugging Face model folder, not a run directory" in capsys.readouterr().err


def test_best_of_n_without_a_reward_model_speaks_of_the_run_alone(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _parent(tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        main(["best-of-n", run, "--n=2"])
    assert stopped.value.code == 2
    told = "no checkpoints of a reward model (stage reward) in this run directory"
    assert capsys.readouterr().err == f"rlhf-jax: error: {run}: {told}\n"
    config = default_config()  # a policy that is missing is no matter of parents either
    context = make_context(config, tmp_path / "own")
    with pytest.raises(UserError, match=rf"^{tmp_path}/own: no checkpoints in {tmp_path}/own/checkpoints/sft$"):
        load_parent(context, "sft", stage_decoder(context, "sft"))
