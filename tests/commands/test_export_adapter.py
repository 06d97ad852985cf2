"""Adapters leave in PEFT's format: the base's weights plus alpha / r B A, put together here, are the merged model's."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rlhf_jax.build.specs import decoder_spec
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.config import default_config, to_json
from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer
from rlhf_jax.main import main
from rlhf_jax.models import LoRASpec, add_adapters, init_decoder, init_scalar_head
from rlhf_jax.types import TrainState

RANK, ALPHA = 3, 6.0
STYLES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"norm": "layer", "positions": "learned", "activation": "gelu"},
}
CASES = {
    "llama": ("llama", ("q", "k", "v", "o", "gate", "up", "down"), "sft"),
    "llama-reward": ("llama", ("q", "v"), "reward"),
    "gpt2": ("gpt2", ("q", "k", "v", "o", "up", "down"), "sft"),
    "gpt2-reward": ("gpt2", ("k", "v", "down"), "reward"),
    "gpt2-one": ("gpt2", ("v",), "ppo"),
}
MODULES = {
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    "llama-reward": ["q_proj", "v_proj"],
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    "gpt2-reward": ["attn.c_attn", "mlp.c_proj"],
    "gpt2-one": ["attn.c_attn"],
}


def make_run(folder: pathlib.Path, style: str, targets: tuple[str, ...], stage: str) -> pathlib.Path:
    """A run directory as training by adapters leaves it, every parameter random."""
    config = default_config()
    config.model.update({"width": 16, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_width": 8, "max_positions": 64})
    config.model.update(STYLES[style])
    config.lora.update({"rank": RANK, "alpha": ALPHA, "targets": targets, "stages": (stage,)})
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    tokenizer = build_tokenizer("word")
    save_tokenizer(tokenizer, folder / "tokenizer")
    spec = decoder_spec(config.model, tokenizer.vocab_size)

    def init(key: jax.Array) -> Any:
        decoder, head = init_decoder(spec, key), init_scalar_head(spec, key)
        tree = {"sft": decoder, "ppo": {"policy": decoder}, "reward": {"decoder": decoder, "head": head}}[stage]
        return add_adapters(LoRASpec(RANK, ALPHA, targets), tree, key)

    rng = np.random.default_rng(5)

    def draw(path: Any, leaf: Any) -> jax.Array:
        scale = "lora_scale" in str(path[-1])
        return jnp.full(leaf.shape, ALPHA / RANK) if scale else jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))
    with Checkpoints(folder / "checkpoints" / stage) as checkpoints:
        checkpoints.save(TrainState(jnp.int32(3), params, (jnp.ones(2),), jax.random.key(0), {}), {"batches": {}})
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """A folder with the run of a case and its three exports."""
    made: dict[str, pathlib.Path] = {}

    def one(case: str) -> pathlib.Path:
        if case not in made:
            root = tmp_path_factory.mktemp(case)
            make_run(root / "run", *CASES[case])
            for name in ("merged", "base", "adapter"):
                words = [] if name == "merged" else [f"--{name}"]
                main(["export", str(root / "run"), f"--stage={CASES[case][2]}", f"--out={root / name}", *words])
            made[case] = root
        return made[case]

    return one


def setting(config: dict[str, Any], kind: str, default: str, module: str) -> float:
    """The rank or the alpha of a module: that of the pattern which its name ends with, else the common one."""
    for pattern, value in config[kind].items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return float(config[default])


@pytest.mark.parametrize("case", CASES)
def test_base_and_adapter_together_are_the_merged_model(case: str, exported: Callable[[str], pathlib.Path]) -> None:
    root = exported(case)
    config = json.loads((root / "adapter" / "adapter_config.json").read_text())
    adapter = safetensors.numpy.load_file(root / "adapter" / "adapter_model.safetensors")
    base, merged = (safetensors.numpy.load_file(root / name / "model.safetensors") for name in ("base", "merged"))
    assert base.keys() == merged.keys()
    changed = set()
    for name in [name for name in adapter if name.endswith(".lora_A.weight")]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = adapter[name], adapter[name.replace("lora_A", "lora_B")]
        assert any(module.endswith(f".{target}") for target in config["target_modules"])
        rank, alpha = (
            setting(config, "rank_pattern", "r", module),
            setting(config, "alpha_pattern", "lora_alpha", module),
        )
        assert a.shape[0] == b.shape[1] == rank
        added = alpha / rank * b @ a
        expected = base[f"{module}.weight"] + (added.T if config["fan_in_fan_out"] else added)
        np.testing.assert_allclose(merged[f"{module}.weight"], expected, rtol=0, atol=1e-5)
        assert np.abs(added).max() > 0.1
        changed.add(f"{module}.weight")
    said = {name: json.loads((root / name / "config.json").read_text())["rlhf_jax"] for name in ("base", "merged")}
    assert {name: about["adapters"] for name, about in said.items()} == {"base": "left out", "merged": "merged"}
    for name in base.keys() - changed:
        np.testing.assert_array_equal(base[name], merged[name])
    assert len(changed) == 2 * len(MODULES[case]), "in each of two layers"
    if CASES[case][2] == "reward":
        np.testing.assert_array_equal(adapter["base_model.model.score.weight"], merged["score.weight"])


@pytest.mark.parametrize("case", CASES)
def test_the_config_is_one_of_peft(case: str, exported: Callable[[str], pathlib.Path]) -> None:
    style, _, stage = CASES[case]
    config = json.loads((exported(case) / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == ("SEQ_CLS" if stage == "reward" else "CAUSAL_LM")
    assert config["target_modules"] == MODULES[case]
    assert (config["r"], config["lora_alpha"], config["bias"]) == (RANK, ALPHA, "none")
    assert config["fan_in_fan_out"] is (style == "gpt2")
    assert config["modules_to_save"] == (["score"] if stage == "reward" else None)
    assert json.loads((exported(case) / "adapter" / "rlhf_jax.json").read_text())["stage"] == stage


def test_an_adapter_is_replaced_only_when_asked(
    exported: Callable[[str], pathlib.Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = exported("llama-reward")
    words = ["export", str(root / "run"), "--stage=reward", f"--out={root / 'adapter'}", "--adapter"]
    with pytest.raises(SystemExit):
        main(words)
    assert "add --overwrite" in capsys.readouterr().err
    main([*words, "--overwrite"])
    assert "adapters of llama, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--adapter", "--base"), "export: --adapter and --base: name one of them"),
        (("--adapter=yes",), "export: --adapter=yes: must be --adapter"),
        (("--base",), "did not train sft by adapters (config.lora)"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    words: tuple[str, ...],
    says: str,
    exported: Callable[[str], pathlib.Path],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = exported("llama-reward") / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(run), "--stage=sft", f"--out={tmp_path / 'out'}", *words])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
