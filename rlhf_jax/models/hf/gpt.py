"""GPT-2, GPT-Neo and GPT-NeoX (Pythia): LayerNorm, biases, a feed-forward network without a gate.

GPT-2 has all its biases and as many heads of keys as of queries; a decoder that has less is written with zeros and with
repeated heads.
"""

from rlhf_jax.models.hf.family import Family, Size
from rlhf_jax.models.hf.parts import PLAIN, PLAIN_ERF, Activation, AttentionTypes, Flag, FullHeads, Rope
from rlhf_jax.models.hf.tensors import BY_HEAD, COLUMNS, LINEAR, SAME, Tensor, layer_norm, linear, same


def _kernel(theirs: str, ours: str) -> tuple[Tensor, Tensor]:
    """A layer of GPT-2: its weight is (inputs, outputs), as ours is."""
    return same(f"{theirs}.weight", f"{ours}/kernel"), Tensor(f"{theirs}.bias", (f"{ours}/bias",), SAME, filled=True)


def _qkv(kind: str) -> tuple[str, ...]:
    return tuple(f"layers/attention/{name}/{kind}" for name in "qkv")


BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
STYLE = {"norm": "layer", "positions": "learned"}
OUTPUT = Tensor("lm_head.weight", ("output",), LINEAR)
EMBEDDINGS = (
    same("transformer.wte.weight", "embedding"),
    same("transformer.wpe.weight", "position_embedding"),
    *layer_norm("transformer.ln_f", "final_norm"),
    OUTPUT,
)
H = "transformer.h.{}"

GPT2 = Family(
    name="GPT2",
    model_type="gpt2",
    causal="GPT2LMHeadModel",
    classifier="GPT2ForSequenceClassification",
    base="GPT2Model",
    style={**STYLE, **BIASES},
    sizes={
        "vocab_size": Size("vocab_size"),
        "n_embd": Size("width"),
        "n_layer": Size("depth"),
        "n_head": Size("heads"),
        "n_inner": Size("mlp_width", "width", 4),
        "n_positions": Size("max_positions", 1024),
        "layer_norm_epsilon": Size("norm_epsilon", 1e-5),
    },
    tied=True,
    parts=(FullHeads(), Activation("activation_function", PLAIN)),
    tensors=(
        *EMBEDDINGS,
        *layer_norm(f"{H}.ln_1", "layers/attention_norm"),
        Tensor(f"{H}.attn.c_attn.weight", _qkv("kernel"), COLUMNS),
        Tensor(f"{H}.attn.c_attn.bias", _qkv("bias"), COLUMNS, filled=True),
        *_kernel(f"{H}.attn.c_proj", "layers/attention/o"),
        *layer_norm(f"{H}.ln_2", "layers/mlp_norm"),
        *_kernel(f"{H}.mlp.c_fc", "layers/up"),
        *_kernel(f"{H}.mlp.c_proj", "layers/down"),
    ),
    prefix="transformer.",
    buffers=r"\.attn\.(bias|masked_bias)$",
    only={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    fills=("kv_heads", *BIASES),
)

GPT_NEO = Family(
    name="GPTNeo",
    model_type="gpt_neo",
    causal="GPTNeoForCausalLM",
    classifier="GPTNeoForSequenceClassification",
    base="GPTNeoModel",
    style={**STYLE, **BIASES, "qkv_bias": False, "query_scale": 1.0},
    sizes={
        "vocab_size": Size("vocab_size"),
        "hidden_size": Size("width"),
        "num_layers": Size("depth"),
        "num_heads": Size("heads"),
        "intermediate_size": Size("mlp_width", "width", 4),
        "max_position_embeddings": Size("max_positions", 2048),
        "layer_norm_epsilon": Size("norm_epsilon", 1e-5),
    },
    tied=True,
    parts=(FullHeads(), Activation("activation_function", PLAIN), AttentionTypes()),
    tensors=(
        *EMBEDDINGS,
        *layer_norm(f"{H}.ln_1", "layers/attention_norm"),
        *linear(f"{H}.attn.attention.q_proj", "layers/attention/q"),
        *linear(f"{H}.attn.attention.k_proj", "layers/attention/k"),
        *linear(f"{H}.attn.attention.v_proj", "layers/attention/v"),
        *linear(f"{H}.attn.attention.out_proj", "layers/attention/o"),
        *layer_norm(f"{H}.ln_2", "layers/mlp_norm"),
        *linear(f"{H}.mlp.c_fc", "layers/up"),
        *linear(f"{H}.mlp.c_proj", "layers/down"),
    ),
    prefix="transformer.",
    buffers=r"\.attn\.attention\.(bias|masked_bias)$",
)

L = "gpt_neox.layers.{}"

GPT_NEOX = Family(
    name="GPTNeoX",
    model_type="gpt_neox",
    causal="GPTNeoXForCausalLM",
    classifier="GPTNeoXForSequenceClassification",
    base="GPTNeoXModel",
    style={"norm": "layer", "positions": "rotary", "mlp_bias": True},
    sizes={
        "vocab_size": Size("vocab_size"),
        "hidden_size": Size("width"),
        "intermediate_size": Size("mlp_width"),
        "num_hidden_layers": Size("depth"),
        "num_attention_heads": Size("heads"),
        "max_position_embeddings": Size("max_positions", 2048),
        "layer_norm_eps": Size("norm_epsilon", 1e-5),
    },
    tied=False,
    parts=(
        FullHeads(),
        Activation("hidden_act", PLAIN_ERF),
        Flag("attention_bias", ("qkv_bias", "out_bias"), True),
        Flag("use_parallel_residual", ("parallel",), True),
        Rope(theta_key="rotary_emb_base", fraction=0.25, fraction_key="rotary_pct"),
    ),
    tensors=(
        same("gpt_neox.embed_in.weight", "embedding"),
        *layer_norm(f"{L}.input_layernorm", "layers/attention_norm"),
        Tensor(f"{L}.attention.query_key_value.weight", _qkv("kernel"), BY_HEAD),
        Tensor(f"{L}.attention.query_key_value.bias", _qkv("bias"), BY_HEAD),
        *linear(f"{L}.attention.dense", "layers/attention/o"),
        *layer_norm(f"{L}.post_attention_layernorm", "layers/mlp_norm"),
        *linear(f"{L}.mlp.dense_h_to_4h", "layers/up"),
        *linear(f"{L}.mlp.dense_4h_to_h", "layers/down"),
        *layer_norm("gpt_neox.final_layer_norm", "final_norm"),
        Tensor("embed_out.weight", ("output",), LINEAR),
    ),
    prefix="gpt_neox.",
    buffers=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
)
