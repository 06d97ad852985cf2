"""``rlhf-jax export`` on run directories made for the purpose, read back by transformers without a network."""

import errno
import hashlib
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from rlhf_jax.build.specs import decoder_spec
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.commands import export
from rlhf_jax.config import default_config, to_json
from rlhf_jax.data.tokenizers import build_tokenizer, load_tokenizer, save_tokenizer
from rlhf_jax.main import main
from rlhf_jax.metrics import update_summary
from rlhf_jax.models import init_decoder, init_scalar_head, value_from_reward
from rlhf_jax.models.hf import load_reward_model
from rlhf_jax.types import TrainState

TEXTS = ["the cat sat on the mat", "a mat for the cat"] * 4


def params_of(config, vocab_size):
    spec = decoder_spec(config.model, vocab_size)
    key, rng = jax.random.key(0), np.random.default_rng(5)
    shapes = jax.eval_shape(lambda: {"decoder": init_decoder(spec, key), "head": init_scalar_head(spec, key)})
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def save(run, stage, params, step=3):
    with Checkpoints(run / "checkpoints" / stage) as checkpoints:
        state = TrainState(jnp.int32(step), params, (jnp.ones(2),), jax.random.key(0), {})
        checkpoints.save(state, {"batches": {}})


def make_run(folder, tokenizer, stages=("reward",), **changes):
    """A run directory as training leaves it, as far as an export reads it; ``changes`` are dotted keys."""
    config = default_config()
    config.model.update({"width": 16, "depth": 1, "heads": 4, "kv_heads": 2, "mlp_width": 8, "max_positions": 64})
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    save_tokenizer(tokenizer, folder / "tokenizer")
    params = params_of(config, tokenizer.vocab_size)
    trees = {
        "sft": params["decoder"],
        "ppo": {"policy": params["decoder"], "value": value_from_reward(params, bounded=True)},
        "online": params["decoder"],
    }
    for stage in stages:
        save(folder, stage, trees.get(stage, params))
    update_summary(folder, {"reward.pair_accuracy": 0.875, "reward.w1.a|b.c": 0.25, "reward.steps": 3, "sft.loss": 1.5})
    return params


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, build_tokenizer("word"), ("reward", "reward_common", "sft", "ppo", "online"))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The folder of a stage, written once."""
    root = tmp_path_factory.mktemp("exported")

    def one(stage: str) -> pathlib.Path:
        if not (root / stage).exists():
            main(["export", str(run), f"--stage={stage}", f"--out={root / stage}"])
        return root / stage

    return one


def refused(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["export", *map(str, words)])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("rlhf-jax: error: ")
    assert line.count("\n") == 1
    return line.removeprefix("rlhf-jax: error: ").strip()


@pytest.mark.parametrize(
    ("stage", "architecture", "side"),
    [
        ("reward", "LlamaForSequenceClassification", "right"),
        ("reward_common", "LlamaForSequenceClassification", "right"),
        ("sft", "LlamaForCausalLM", "left"),
        ("ppo", "LlamaForCausalLM", "left"),
        ("online", "LlamaForCausalLM", "left"),
    ],
)
def test_every_stage_leaves_as_a_folder_that_transformers_reads(stage, architecture, side, run, exported):
    import transformers

    folder = exported(stage)
    files = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == files
    settings = transformers.AutoConfig.from_pretrained(folder)
    assert settings.architectures == [architecture]
    assert settings.rlhf_jax["stage"] == stage
    assert settings.rlhf_jax["steps"] == 3
    tokenizer, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(run / "tokenizer")
    assert (settings.pad_token_id, settings.eos_token_id) == (ours.pad_id, ours.eos_id)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (ours.pad_id, ours.eos_id)
    assert (tokenizer.padding_side, tokenizer.model_max_length) == (side, 64)


def test_the_parameters_are_those_of_the_checkpoint(exported):
    config = json.loads((exported("reward") / "config.json").read_text())
    own = default_config()
    own.model.update({"width": 16, "depth": 1, "heads": 4, "kv_heads": 2, "mlp_width": 8})
    spec, params = load_reward_model(exported("reward"))
    assert spec.vocab_size == config["vocab_size"]
    expected = params_of(own, spec.vocab_size)
    for ours, theirs in zip(jax.tree.leaves(expected), jax.tree.leaves(params), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_the_config_says_what_the_reward_is(tmp_path):
    tokenizer = build_tokenizer("word")
    config = default_config()
    make_run(tmp_path / "run", tokenizer, ("reward", "reward_common"), reward__balance_utilities=True)
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    values["reward"]["utility_by_type"] = {"open": {**values["reward"]["utility"], "name": "log"}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(values))
    for stage, kinds in (("reward", {"open"}), ("reward_common", set())):
        main(["export", str(tmp_path / "run"), f"--stage={stage}", f"--out={tmp_path / stage}"])
        about = json.loads((tmp_path / stage / "config.json").read_text())["rlhf_jax"]
        assert about["bounded"] is True
        assert about["balance_utilities"] is True
        assert about["utility"] == config.reward.utility.to_dict()
        assert set(about["utility_by_type"]) == kinds
        assert about["data"]["source"] == "embedded world"
        assert ("name=log" in (tmp_path / stage / "README.md").read_text()) is (stage == "reward")


def test_the_card_can_be_read_by_machines_and_people(exported):
    text = (exported("reward") / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-classification"
    assert "reward-model" in front["tags"]
    assert "| `pair_accuracy` | 0.8750 |" in text
    assert "| `w1.a\\|b.c` | 0.2500 |" in text
    assert "sft" not in text
    assert "torch.sigmoid(logit)" in text
    assert "use_activation=false" in text
    assert "had not ended" not in text
    policy = (exported("ppo") / "README.md").read_text()
    assert yaml.safe_load(policy.split("---\n")[1])["pipeline_tag"] == "text-generation"
    assert "had not ended" in policy
    assert "sigmoid" not in policy


def test_a_reward_without_bounds_is_the_logit(tmp_path):
    make_run(tmp_path / "run", build_tokenizer("word"), reward__bounded="no", reward__utility__name="log_sigmoid")
    main(["export", str(tmp_path / "run"), "--stage=reward", f"--out={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rlhf_jax"]["bounded"] is False
    assert "sigmoid(logit)" not in (tmp_path / "out" / "README.md").read_text()


def test_a_gpt2_shaped_model_leaves_as_one(tmp_path):
    style = {"model__norm": "layer", "model__positions": "learned", "model__activation": "gelu"}
    make_run(tmp_path / "run", build_tokenizer("byte"), **style)
    main(["export", str(tmp_path / "run"), "--stage=reward", f"--out={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "GPT2ForSequenceClassification"
    ]
    assert "pad on the right" in (tmp_path / "out" / "README.md").read_text()


def pretrained(folder):
    """A tokenizer that puts a token in front of every text, saved as others save theirs."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer.from_str(build_tokenizer("bpe", 280, texts=TEXTS).backend.backend_tokenizer.to_str())
    made = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
    )
    made.save_pretrained(folder)
    return build_tokenizer("pretrained", path=str(folder))


@pytest.mark.parametrize("kind", ["word", "byte", "bpe", "pretrained"])
def test_auto_tokenizer_gives_our_ids(kind, tmp_path):
    import transformers

    ours = (
        pretrained(tmp_path / "made")
        if kind == "pretrained"
        else build_tokenizer(kind, 280, texts=TEXTS if kind == "bpe" else ())
    )
    make_run(tmp_path / "run", ours)
    main(["export", str(tmp_path / "run"), "--stage=reward", f"--out={tmp_path / 'out'}"])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    special = (ours.backend.pad_token, ours.backend.eos_token)
    for text in (*TEXTS[:2], "  the mat\n", "Ünïcode 🙂", f"end {special[0]} of {special[1]}", ""):
        assert theirs(text)["input_ids"] == ours.encode(text), text
    padded = theirs.pad({"input_ids": [[1, 2, 3], [1]]})
    assert padded["input_ids"] == [[1, 2, 3], [1, ours.pad_id, ours.pad_id]]


def test_the_fingerprint_is_the_files_hash(tmp_path):
    data = tmp_path / "lists.jsonl"
    data.write_bytes(b'{"prompt": "p"}\n')
    make_run(tmp_path / "run", build_tokenizer("byte"), data__path=str(data))
    words = ["export", str(tmp_path / "run"), "--stage=reward", f"--out={tmp_path / 'out'}"]
    main(words)
    digest = hashlib.sha256(b'{"prompt": "p"}\n').hexdigest()
    about = json.loads((tmp_path / "out" / "config.json").read_text())["rlhf_jax"]
    assert about["data"] == {"source": str(data), "sha256": digest}
    assert digest in (tmp_path / "out" / "README.md").read_text()
    data.unlink()
    main([*words, "--overwrite"])
    about = json.loads((tmp_path / "out" / "config.json").read_text())["rlhf_jax"]
    assert about["data"] == {"source": str(data), "sha256": None}


def test_an_existing_folder_is_replaced_only_if_asked_and_only_if_ours(run, tmp_path, capsys):
    words = (run, "--stage=reward", f"--out={tmp_path / 'out'}")
    main(["export", *map(str, words)])
    (tmp_path / "out" / "old").touch()
    assert "exists; name another folder" in refused(capsys, *words)
    assert (tmp_path / "out" / "old").exists()
    main(["export", *map(str, words), "--overwrite"])
    assert not (tmp_path / "out" / "old").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "llama"}')
    line = refused(capsys, run, "--stage=reward", f"--out={tmp_path / 'mine'}", "--overwrite")
    assert "something other than an export" in line
    assert refused(capsys, run, "--stage=reward", f"--out={run}", "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    assert (run / "summary.json").exists()


@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(before, run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    words = [str(run), "--stage=reward", f"--out={out}", *(["--overwrite"] if before else [])]
    if before:
        main(["export", *words])
        (out / "old").touch()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    assert refused(capsys, *words) == f"--out: {out}: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if before else [])
    assert not before or (out / "old").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name one run directory, not 0"),
        (("a", "b"), "name one run directory, not 2"),
        (("a", "--stage=reward"), "--out: missing"),
        (("a", "--out=b"), "--stage: missing"),
        (("a", "--stage=rewards", "--out=b"), "did you mean reward?"),
        (("a", "--stages=reward", "--out=b"), "did you mean --stage?"),
        (("a", "--stage", "--out=b"), "must be --stage=reward|"),
        (("a", "--stage=reward", "--out=b", "--overwrite=yes"), "must be --overwrite"),
        (("a", "--stage=reward", "--out=b"), "a: not a run directory (no config.json)"),
    ],
)
def test_mistakes_on_the_command_line(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in refused(capsys, *words)


def test_what_a_run_may_lack(tmp_path, capsys):
    run, out = tmp_path / "run", f"--out={tmp_path / 'out'}"
    make_run(run, build_tokenizer("word"))
    assert "no checkpoints of stage ppo" in refused(capsys, run, "--stage=ppo", out)
    path = run / "tokenizer" / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"pad_token": {"content": "<eos>"}}))
    assert "pad_token: '<eos>', eos_token: '<eos>'; they must differ" in refused(capsys, run, "--stage=reward", out)
    path.write_text(json.dumps(saved))
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"norm": "rms"', '"norm": "layer"'))
    assert "config.model.norm=layer" in refused(capsys, run, "--stage=reward", out)
    (run / "config.json").write_text(config.replace('"mlp_width": 8', '"mlp_width": 12'))
    assert "decoder.layers.down.kernel: shape (1, 8, 16), but" in refused(capsys, run, "--stage=reward", out)
    (run / "config.json").write_text(config.replace('"members": 1', '"members": 3'))
    assert "reward.ensemble.members: 3" in refused(capsys, run, "--stage=reward", out)
    (run / "config.json").write_text(config)
    shutil.rmtree(run / "tokenizer")
    assert "no tokenizer folder" in refused(capsys, run, "--stage=reward", out)
    assert not (tmp_path / "out").exists()


def test_the_help(capsys):
    main(["export", "--help"])
    assert "usage: rlhf-jax export RUN" in capsys.readouterr().out


def test_the_help_and_the_page_name_every_stage() -> None:
    """Those that ``export`` takes, which the errors list."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "export.md").read_text()
    table = page.partition("| stage |")[2].partition("\n\n")[0]
    assert f"--stage={'|'.join(export.STAGES)} " in export._HELP
    assert all(f"`{stage}`" in table for stage in export.STAGES)
