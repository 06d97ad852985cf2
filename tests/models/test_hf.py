"""Models as Hugging Face folders, against the architectures' formulas in NumPy and transformers' own settings.

The parity tests (``make parity``) compare with the architectures themselves, which need torch.
"""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from scipy.special import softmax

from rlhf_jax.errors import UserError
from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    apply_reward_model,
    init_decoder,
    init_scalar_head,
    output_logits,
    positions_of,
)
from rlhf_jax.models.hf import family_of, load_reward_model, model_config, policy_tensors, reward_tensors, write_model

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

LLAMA = DecoderSpec(vocab_size=13, width=24, depth=2, heads=6, kv_heads=2, mlp_width=20, max_positions=9)
GPT2 = dataclasses.replace(LLAMA, norm="layer", positions="learned", activation="gelu")
SPECS = {
    "llama": LLAMA,
    "llama-untied-mha": dataclasses.replace(LLAMA, tied=False, kv_heads=6, rope_theta=50.0, norm_epsilon=1e-3),
    "gpt2": GPT2,
    "gpt2-untied-mqa": dataclasses.replace(GPT2, tied=False, kv_heads=1, norm_epsilon=1e-3),
}
reward_model = jax.jit(apply_reward_model, static_argnums=0, static_argnames="bounded")
decode = jax.jit(apply_decoder, static_argnums=0)
IDS = np.array([[3, 1, 4, 1, 5, 9, 2]], np.int32)
PAD, EOS = 0, 2


def params_of(spec):
    """Every parameter random, the norms' too, so that no two of them can be mistaken for each other."""
    key, rng = jax.random.key(0), np.random.default_rng(7)
    shapes = jax.eval_shape(lambda: {"decoder": init_decoder(spec, key), "head": init_scalar_head(spec, key)})
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, leaf.dtype), shapes)


def config_of(spec, *, reward=True, about=None):
    return model_config(spec, reward=reward, pad_id=PAD, eos_id=EOS, about=about or {})


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


@pytest.fixture
def folder(spec, tmp_path):
    write_model(tmp_path, config_of(spec), reward_tensors(spec, params_of(spec)))
    return tmp_path


def settings_of(folder):
    """What transformers makes of the folder's ``config.json``."""
    import transformers

    return transformers.AutoConfig.from_pretrained(folder)


def heads_of(x, count):
    return x.reshape(len(x), count, -1).swapaxes(0, 1)


def attend(q, k, v):
    """Causal attention of (heads, tokens, channels) with as many heads of keys as of queries."""
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    return (softmax(scores, axis=-1) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)


def llama(c, w, ids):
    """Final hidden states by the formulas of Touvron et al. 2023, weights as (outputs, inputs)."""

    def norm(x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + c.rms_norm_eps) * w[f"model.{name}.weight"]

    def turn(x):
        # Channels c and c + half are the real and imaginary part of a number that turns with the position.
        half = c.head_dim // 2
        angle = np.arange(x.shape[1])[:, None] * c.rope_parameters["rope_theta"] ** (-np.arange(half) / half)
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
        return np.concatenate([turned.real, turned.imag], -1)

    x = w["model.embed_tokens.weight"][ids].astype(np.float64)
    for i in range(c.num_hidden_layers):

        def linear(y, name, i=i):
            return y @ w[f"model.layers.{i}.{name}.weight"].T

        y = norm(x, f"layers.{i}.input_layernorm")
        q = turn(heads_of(linear(y, "self_attn.q_proj"), c.num_attention_heads))
        k = turn(heads_of(linear(y, "self_attn.k_proj"), c.num_key_value_heads))
        v = heads_of(linear(y, "self_attn.v_proj"), c.num_key_value_heads)
        group = c.num_attention_heads // c.num_key_value_heads
        x = x + linear(attend(q, k.repeat(group, 0), v.repeat(group, 0)), "self_attn.o_proj")
        y = norm(x, f"layers.{i}.post_attention_layernorm")
        gate = linear(y, "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, "mlp.up_proj"), "mlp.down_proj")
    return norm(x, "norm")


def gpt2(c, w, ids):
    """Final hidden states by the released code of Radford et al. 2019, weights as (inputs, outputs)."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + c.layer_norm_epsilon)
        return scaled * w[f"transformer.{name}.weight"] + w[f"transformer.{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    assert c.activation_function == "gelu_new"
    x = w["transformer.wte.weight"][ids].astype(np.float64) + w["transformer.wpe.weight"][: len(ids)]
    for i in range(c.n_layer):

        def linear(y, name, i=i):
            return y @ w[f"transformer.h.{i}.{name}.weight"] + w[f"transformer.h.{i}.{name}.bias"]

        parts = np.split(linear(norm(x, f"h.{i}.ln_1"), "attn.c_attn"), 3, axis=-1)
        x = x + linear(attend(*(heads_of(part, c.n_head) for part in parts)), "attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"h.{i}.ln_2"), "mlp.c_fc")), "mlp.c_proj")
    return norm(x, "ln_f")


def hidden_of(folder):
    settings = settings_of(folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    return {"llama": llama, "gpt2": gpt2}[settings.model_type](settings, tensors, IDS[0]), tensors


def test_the_written_weights_give_our_rewards_by_the_formulas_of_the_architecture(spec, folder):
    hidden, tensors = hidden_of(folder)
    expected = hidden[-1] @ tensors["score.weight"][0]
    mask = jnp.ones(IDS.shape, bool)
    logits = reward_model(spec, params_of(spec), jnp.asarray(IDS), mask, bounded=False)
    assert abs(expected) > 0.1
    np.testing.assert_allclose(logits, [expected], atol=1e-4)


def test_the_written_weights_give_our_next_token_logits(spec, tmp_path):
    params = params_of(spec)["decoder"]
    write_model(tmp_path, config_of(spec, reward=False), policy_tensors(spec, params))
    hidden, tensors = hidden_of(tmp_path)
    settings = settings_of(tmp_path)
    embedding = tensors.get("model.embed_tokens.weight", tensors.get("transformer.wte.weight"))
    assert ("lm_head.weight" in tensors) is not spec.tied
    assert settings.tie_word_embeddings is spec.tied
    mask = jnp.ones(IDS.shape, bool)
    ours = decode(spec, params, jnp.asarray(IDS), positions_of(mask), mask)
    logits = output_logits(spec, params, ours)[0]
    np.testing.assert_allclose(logits, hidden @ tensors.get("lm_head.weight", embedding).T, atol=1e-4)


def test_names_and_shapes_are_those_of_the_architecture(spec, folder):
    c = settings_of(folder)
    shapes = {name: t.shape for name, t in safetensors.numpy.load_file(folder / "model.safetensors").items()}
    d, m = c.hidden_size, spec.mlp_width
    expected = {"score.weight": (1, d)}
    if c.model_type == "llama":
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        expected |= {"model.embed_tokens.weight": (c.vocab_size, d), "model.norm.weight": (d,)}
        parts = {"self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d)}
        parts |= {"self_attn.o_proj": (d, q), "mlp.gate_proj": (m, d), "mlp.up_proj": (m, d), "mlp.down_proj": (d, m)}
        parts |= {"input_layernorm": (d,), "post_attention_layernorm": (d,)}
        layers = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in parts.items()}
    else:
        expected |= {"transformer.wte.weight": (c.vocab_size, d), "transformer.wpe.weight": (c.n_positions, d)}
        expected |= {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}
        parts = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, m), "mlp.c_proj": (m, d)}
        parts |= {"ln_1": (d,), "ln_2": (d,)}
        layers = {f"transformer.h.{i}.{name}.weight": shape for i in range(2) for name, shape in parts.items()}
        layers |= {f"transformer.h.{i}.{name}.bias": s[-1:] for i in range(2) for name, s in parts.items()}
    assert shapes == expected | layers
    with safetensors.safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_reward_model_comes_back_bit_for_bit(spec, folder):
    found_spec, found = load_reward_model(folder)
    params = params_of(spec)
    # A reward depends on no output matrix, and none is written.
    assert found_spec == dataclasses.replace(spec, tied=True)
    params["decoder"].pop("output", None)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_the_settings_are_read_by_transformers(folder):
    c = settings_of(folder)
    assert c.architectures in (["LlamaForSequenceClassification"], ["GPT2ForSequenceClassification"])
    assert (c.num_labels, c.id2label, c.problem_type) == (1, {0: "reward"}, "regression")
    assert (c.pad_token_id, c.eos_token_id, c.bos_token_id) == (PAD, EOS, None)
    assert "torch" not in type(c.dtype).__module__
    assert str(c.dtype) == "float32"


def test_the_dtype_of_computation_is_kept(tmp_path):
    spec = dataclasses.replace(LLAMA, dtype="bfloat16")
    write_model(tmp_path, config_of(spec), reward_tensors(spec, params_of(spec)))
    assert load_reward_model(tmp_path)[0] == spec
    assert settings_of(tmp_path).rlhf_jax["compute_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"norm": "layer"}, ["not Llama for its config.model.norm=layer", "config.model.positions=rotary"]),
        ({"positions": "learned", "activation": "gelu"}, ["not GPT2 for its config.model.norm=rms"]),
        ({"dtype": "float64"}, ["config.model.dtype"]),
    ],
)
def test_what_has_no_counterpart_is_refused_by_its_keys(changes, named):
    with pytest.raises(UserError) as refused:
        family_of(dataclasses.replace(LLAMA, **changes))
    assert all(words in str(refused.value) for words in named)
    assert "\n" not in str(refused.value)


def test_padding_with_the_end_of_sequence_is_refused():
    with pytest.raises(UserError, match="must differ"):
        model_config(LLAMA, reward=True, pad_id=3, eos_id=3, about={})


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "No such file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "not JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"\x09"), "model.safetensors: "),
    "another's": (lambda f: change_config(f, rlhf_jax=None), "rlhf_jax: missing"),
    "a policy": (lambda f: change_config(f, architectures=["GPT2ForCausalLM"]), "architectures: GPT2ForCausalLM"),
    "no key": (lambda f: change_config(f, rlhf_jax={"kv_heads": 2}), "compute_dtype: missing"),
    "no decoder": (lambda f: change_config(f, n_head=0), "n_head: 0 is not a count"),
    "missing": (
        lambda f: change_tensors(f, lambda t: t.pop("transformer.wte.weight")),
        "transformer.wte.weight: missing",
    ),
    "foreign": (lambda f: change_tensors(f, lambda t: t.update(x=np.ones(1))), "x: not a tensor of GPT2"),
    "other size": (
        lambda f: change_config(f, vocab_size=14),
        "transformer.wte.weight: shape (13, 24), but config.json says (14, 24)",
    ),
    "half": (
        lambda f: change_tensors(f, lambda t: t.update({"score.weight": t["score.weight"].astype(np.float16)})),
        "score.weight: F16",
    ),
    "biased": (lambda f: change_tensors(f, lambda t: t["transformer.h.1.mlp.c_fc.bias"].fill(1)), "c_fc.bias is not 0"),
    "heads of their own": (
        lambda f: change_tensors(f, lambda t: t["transformer.h.0.attn.c_attn.weight"].__iadd__(np.arange(72.0))),
        "key and value heads",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_cannot_be_read_is_one_line(case, tmp_path):
    break_it, words = BROKEN[case]
    write_model(tmp_path, config_of(GPT2), reward_tensors(GPT2, params_of(GPT2)))
    break_it(tmp_path)
    with pytest.raises(UserError) as refused:
        load_reward_model(tmp_path)
    assert words in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
