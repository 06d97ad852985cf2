"""Folders of every family: settings both ways by transformers' own classes, parameters both ways, what is refused.

None of it needs torch; that the models compute the same is for ``test_golden_logits.py`` and the parity tests.
"""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rlhf_jax.errors import UserError
from rlhf_jax.models import DecoderSpec, hf, init_decoder
from rlhf_jax.models.hf.settings import IGNORED
from rlhf_jax.models.spec import RopeScaling
from rlhf_jax.parallel import MeshExecutor

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

SIZES = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 64,
}
SHARED = SIZES | {"num_key_value_heads": 2}
SPEC = DecoderSpec(vocab_size=11, width=8, depth=3, heads=4, kv_heads=2, mlp_width=12, max_positions=64)
BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
GEMMA = {"norm": "rms1p", "activation": "geglu", "scaled_embeddings": True, "head_size": 6}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
LOCAL = (True, False, True)
CLASSIC = {"kv_heads": 4, "norm": "layer", "positions": "learned", "activation": "gelu", "norm_epsilon": 1e-5}


def rope(**values):
    return {"rope_parameters": {"rope_theta": 500.0, **values}}


# A class of transformers, its arguments, and how our decoder differs from SPEC.
FAMILIES = {
    "llama": ("Llama", SHARED, {"tied": False}),
    "llama3": (
        "Llama",
        SHARED
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 6, "hidden_act": "silu"}
        | rope(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
        BIASES | {"head_size": 6, "rope_theta": 500.0, "rope_scaling": RopeScaling("llama3", 8.0, 16, 1.0, 4.0)},
    ),
    "mistral": ("Mistral", SHARED | {"sliding_window": 5}, {"tied": False, "window": 5, "local": (True,) * 3}),
    "mistral without": ("Mistral", SHARED | {"sliding_window": None}, {"tied": False}),
    "qwen2": ("Qwen2", SHARED, {"tied": False, "qkv_bias": True}),
    "qwen2, yarn": (
        "Qwen2",
        SHARED | rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
        {
            "tied": False,
            "qkv_bias": True,
            "rope_theta": 500.0,
            # 0.1 ln 4 + 1: Peng et al. 2023
            "rope_scaling": RopeScaling("yarn", 4.0, 16, 1.0, 32.0, True, 1.1386294361119891),
        },
    ),
    "qwen2, windows": (
        "Qwen2",
        SHARED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        {"tied": False, "qkv_bias": True, "window": 5, "local": (False, True, True)},
    ),
    "qwen3": ("Qwen3", SHARED | {"head_dim": 6}, {"tied": False, "qk_norm": True, "head_size": 6}),
    "gpt2": (
        "GPT2",
        {"vocab_size": 11, "n_embd": 8, "n_layer": 3, "n_head": 4, "n_inner": 12, "n_positions": 64},
        CLASSIC | BIASES,
    ),
    "gpt_neo": (
        "GPTNeo",
        {"vocab_size": 11, "hidden_size": 8, "num_layers": 3, "num_heads": 4, "max_position_embeddings": 64}
        | {"intermediate_size": 12}
        | {"attention_types": [[["local", "global"], 1], [["local"], 1]], "window_size": 5},
        CLASSIC | BIASES | {"qkv_bias": False, "query_scale": 1.0, "window": 5, "local": LOCAL},
    ),
    "gpt_neox": (
        "GPTNeoX",
        SIZES | rope(rope_type="linear", factor=2.0, partial_rotary_factor=1.0),
        BIASES
        | {"kv_heads": 4, "norm": "layer", "activation": "gelu_erf", "norm_epsilon": 1e-5, "tied": False}
        | {"parallel": True, "rope_theta": 500.0, "rope_scaling": RopeScaling("linear", 2.0)},
    ),
    "gemma": ("Gemma", SHARED | {"head_dim": 6}, GEMMA),
    "gemma2": (
        "Gemma2",
        SHARED | {"head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 7},
        GEMMA
        | {"post_norms": True, "query_scale": 7**-0.5, "attention_softcap": 50.0, "logit_softcap": 30.0}
        | {"window": 5, "local": LOCAL},
    ),
    "gemma3": (
        "Gemma3Text",
        SHARED | {"head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 6, "layer_types": LAYERS},
        GEMMA
        | {"post_norms": True, "qk_norm": True, "window": 5, "local": LOCAL}
        | {"rope_theta": 1_000_000.0, "local_rope_theta": 10_000.0},
    ),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def spec_of(name):
    return dataclasses.replace(SPEC, **FAMILIES[name][2])


def write_config(folder, name):
    import transformers

    kind, arguments, _ = FAMILIES[name]
    config = getattr(transformers, f"{kind}Config")(**arguments)
    config.save_pretrained(folder)
    return config


def params_of(spec):
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(lambda: init_decoder(spec, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def save(folder, name):
    folder.mkdir(exist_ok=True)
    params = params_of(spec_of(name))
    hf.save(folder, spec_of(name), params, pad_id=0, eos_id=1)
    return params


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@every_family
def test_settings_of_transformers_are_read_and_come_back(name, tmp_path):
    import transformers

    config = write_config(tmp_path, name)
    spec = hf.read_spec(tmp_path)
    assert spec == spec_of(name)
    ours = hf.model_config(spec, reward=False, pad_id=0, eos_id=1, about={})
    (tmp_path / "config.json").write_text(json.dumps(ours))
    back = transformers.AutoConfig.from_pretrained(tmp_path)
    assert hf.read_spec(tmp_path) == spec
    if name == "mistral without":  # is a Llama
        assert type(back) is transformers.LlamaConfig
        return
    assert type(back) is type(config)
    if name == "qwen2, windows":  # says by rule what is written layer by layer
        assert back.layer_types == config.layer_types
    wanted = config.to_dict()
    # Two numbers that name what the lists of layers beside them say as well.
    free = IGNORED | {"max_window_layers", "_sliding_window_pattern", "attention_types", "rope_parameters"}
    for key in sorted(wanted.keys() - free):
        assert (getattr(back, key) or None) == (wanted[key] or None), key  # of flags null means false
    if "rope_parameters" in wanted:
        assert flat(wanted["rope_parameters"]).items() <= flat(back.rope_parameters).items()


def flat(rope):
    return {
        f"{outer}/{inner}": value
        for outer, values in rope.items()
        for inner, value in (values.items() if isinstance(values, dict) else [("", values)])
    }


@every_family
def test_a_decoder_comes_back_bit_for_bit(name, tmp_path):
    params = save(tmp_path, name)
    spec, found = hf.load(tmp_path)
    assert spec == spec_of(name)
    same(params, found)


def shard(folder, *, files=3):
    """The folder's weights over several files with an index."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{number % files}.safetensors" for number, name in enumerate(tensors)}
    for file in sorted(set(places.values())):
        safetensors.numpy.save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def change(folder, edit):
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    edit(tensors)
    safetensors.numpy.save_file(tensors, path)


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_several_files_and_any_placing(tmp_path):
    params = save(tmp_path, "gpt_neox")
    shard(tmp_path)
    same(params, hf.load(tmp_path)[1])
    executor = MeshExecutor(jax.devices(), fsdp=2, tensor=2)
    wanted = executor.shardings(params, "state")
    places = {hf.path_of(path): place for path, place in jax.tree_util.tree_leaves_with_path(wanted)}
    spread = hf.load(tmp_path, placing=places.__getitem__)[1]
    same(params, spread)
    kernel = spread["layers"]["attention"]["q"]["kernel"]
    assert kernel.sharding == places["layers/attention/q/kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_half_precision_is_widened_without_a_loss(tmp_path):
    params = save(tmp_path, "llama")

    def narrow(tensors):
        for key in tensors:
            tensors[key] = tensors[key].astype(jnp.bfloat16 if "q_proj" in key else np.float16)

    change(tmp_path, narrow)
    found = hf.load(tmp_path)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    kernel = params["layers"]["attention"]["q"]["kernel"].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(found["layers"]["attention"]["q"]["kernel"], kernel)
    np.testing.assert_array_equal(found["embedding"], params["embedding"].astype(jnp.float16).astype(jnp.float32))


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_new_token_gets_the_mean_and_little_probability(name, tmp_path):
    params = save(tmp_path, name)
    spec, found = hf.load(tmp_path, vocab_size=13)
    assert spec.vocab_size == 13
    old, new = (tree["embedding"] if spec.tied else tree["output"].T for tree in (params, found))
    np.testing.assert_array_equal(new[:11], old)
    np.testing.assert_allclose(new[11:], np.mean(old, axis=0)[None].repeat(2, 0), atol=1e-6)
    hidden = jax.random.normal(jax.random.key(1), (100, 8))
    assert float(jnp.max(jax.nn.softmax(hidden @ new.T)[:, 11])) < 1 / 11  # Jensen


def test_a_base_model_and_the_buffers_of_older_writers(tmp_path):
    params = save(tmp_path, "gpt2")

    def strip(tensors):
        for key in list(tensors):
            tensors[key.removeprefix("transformer.")] = tensors.pop(key)
        tensors["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
        tensors["lm_head.weight"] = tensors["wte.weight"].copy()

    change(tmp_path, strip)
    same(params, hf.load(tmp_path)[1])
    change(tmp_path, lambda tensors: tensors["lm_head.weight"].__iadd__(1))
    with pytest.raises(UserError, match=r"lm_head\.weight: differs from the embedding"):
        hf.load(tmp_path)


def test_older_settings_mean_the_same(tmp_path):
    write_config(tmp_path, "llama3")
    new = hf.read_spec(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    scaling = values.pop("rope_parameters")
    values["rope_theta"] = scaling.pop("rope_theta")
    scaling["type"] = scaling.pop("rope_type")
    (tmp_path / "config.json").write_text(json.dumps(values | {"rope_scaling": scaling, "torch_dtype": "bfloat16"}))
    assert hf.read_spec(tmp_path) == new
    write_config(tmp_path, "gpt_neox")
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(values | {"rotary_emb_base": 50, "rotary_pct": 1.0}))
    assert hf.read_spec(tmp_path).rope_theta == 50.0


REFUSED = {
    "code": (lambda f: configure(f, auto_map={"AutoModel": "model.Model"}), "auto_map: names code"),
    "kind": (lambda f: configure(f, model_type="bert"), "model_type: 'bert' is not one of llama, gpt2"),
    "image": (lambda f: configure(f, model_type="gemma3"), "model_type: 'gemma3'"),
    "classifier": (lambda f: configure(f, architectures=["LlamaForTokenClassification"]), "architectures: LlamaForT"),
    "quantized": (lambda f: configure(f, quantization_config={"bits": 4}), "quantization_config: not known"),
    "strange": (lambda f: configure(f, attention_sinks=4), "attention_sinks: not known"),
    "activation": (lambda f: configure(f, hidden_act="relu"), "hidden_act: 'relu' is not supported"),
    "rope": (lambda f: configure(f, rope_scaling={"rope_type": "longrope"}), "rope_type 'longrope' is not supported"),
    "rope key": (
        lambda f: configure(f, rope_scaling={"rope_type": "linear", "factor": 2.0, "sections": [1]}),
        "rope_parameters.sections: not known",
    ),
    "fraction": (
        lambda f: configure(f, rope_scaling={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "partial_rotary_factor: 0.5 is not supported here",
    ),
    "heads": (lambda f: configure(f, num_key_value_heads=3), "num_key_value_heads: 3 does not divide 4"),
    "bomb": (lambda f: configure(f, vocab_size=2**30), "shape (11, 8), but config.json says (1073741824, 8)"),
    "wide": (lambda f: configure(f, hidden_size=2**30, num_attention_heads=2**28), "shape (11, 8), but"),
    "layers": (lambda f: configure(f, num_hidden_layers=2**30), "is more than anybody has"),
    "one layer more": (lambda f: configure(f, num_hidden_layers=4), "model.layers.3.input_layernorm.weight: missing"),
    "one layer less": (lambda f: configure(f, num_hidden_layers=2), "model.layers.2."),
    "no bias": (
        lambda f: change(f, lambda t: t.update({"model.layers.0.mlp.up_proj.bias": np.zeros(12, np.float32)})),
        "up_proj.bias: not a tensor of LlamaForCausalLM",
    ),
    "integers": (
        lambda f: change(f, lambda t: t.update({"model.norm.weight": np.ones(8, np.int8)})),
        "model.norm.weight: I8 is not read",
    ),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin is not read: weights come from safetensors alone",
    ),
    "damaged": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "model.safetensors: "),
    "cut": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-8]),
        "model.safetensors: ",
    ),
    "elsewhere": (
        lambda f: (shard(f), change_index(f, lambda m: m.update({"model.norm.weight": "../model-0.safetensors"}))),
        "weight_map: model.norm.weight: '../model-0.safetensors' is not the name",
    ),
    "index lies": (
        lambda f: (shard(f), change_index(f, lambda m: m.update({"x": "model-0.safetensors"}))),
        "x: missing, though",
    ),
}


def change_index(folder, edit):
    path = folder / "model.safetensors.index.json"
    values = json.loads(path.read_text())
    edit(values["weight_map"])
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(case, tmp_path, monkeypatch):
    break_it, words = REFUSED[case]
    save(tmp_path, "llama")
    break_it(tmp_path)
    monkeypatch.setattr("rlhf_jax.models.hf.fill", lambda *_: pytest.fail("something was allocated"))
    with pytest.raises(UserError) as refused:
        hf.load(tmp_path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention: True is not supported"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping: 5.0"),
        ("gemma3", {"layer_types": ["chunked_attention"] * 3}, "layer_types: must be"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True"),
        ("gpt_neo", {"attention_types": [[["local"], 10**9]]}, "attention_types: must be"),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.6}}, "0.6 of 2 channels"),
        ("qwen2", {"layer_types": LAYERS}, "layer_types: sliding_attention without a window"),
    ],
)
def test_options_that_change_the_model_are_refused(name, changes, words, tmp_path):
    write_config(tmp_path, name)
    configure(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        hf.read_spec(tmp_path)
    assert words in str(refused.value)
