"""Llama and those that keep its names: Mistral, Qwen2, Qwen3.

RMSNorm, rotary positions, a gated feed-forward network, grouped-query attention. Both sides rotate the channel pairs
(c, c + C/2), so that kernels need nothing but a transposition.
"""

from rlhf_jax.models.hf.family import Family, Size
from rlhf_jax.models.hf.parts import GATED, Activation, EveryLayerWindow, Flag, HeadSize, LayerTypes, Rope
from rlhf_jax.models.hf.tensors import LINEAR, Tensor, linear, same

STYLE = {"norm": "rms", "positions": "rotary"}
SIZES = {
    "vocab_size": Size("vocab_size"),
    "hidden_size": Size("width"),
    "intermediate_size": Size("mlp_width"),
    "num_hidden_layers": Size("depth"),
    "num_attention_heads": Size("heads"),
    "num_key_value_heads": Size("kv_heads", "heads"),
    "max_position_embeddings": Size("max_positions", 2048),
    "rms_norm_eps": Size("norm_epsilon", 1e-6),
}
LAYER = "model.layers.{}"
TENSORS = (
    same("model.embed_tokens.weight", "embedding"),
    same(f"{LAYER}.input_layernorm.weight", "layers/attention_norm/scale"),
    *linear(f"{LAYER}.self_attn.q_proj", "layers/attention/q"),
    *linear(f"{LAYER}.self_attn.k_proj", "layers/attention/k"),
    *linear(f"{LAYER}.self_attn.v_proj", "layers/attention/v"),
    *linear(f"{LAYER}.self_attn.o_proj", "layers/attention/o"),
    same(f"{LAYER}.self_attn.q_norm.weight", "layers/attention/q_norm/scale"),
    same(f"{LAYER}.self_attn.k_norm.weight", "layers/attention/k_norm/scale"),
    same(f"{LAYER}.post_attention_layernorm.weight", "layers/mlp_norm/scale"),
    *linear(f"{LAYER}.mlp.gate_proj", "layers/gate"),
    *linear(f"{LAYER}.mlp.up_proj", "layers/up"),
    *linear(f"{LAYER}.mlp.down_proj", "layers/down"),
    same("model.norm.weight", "final_norm/scale"),
    Tensor("lm_head.weight", ("output",), LINEAR),
)
PREFIX, BUFFERS = "model.", r"rotary_emb\.inv_freq$"
ATTENTION_BIAS = Flag("attention_bias", ("qkv_bias", "out_bias"), False)

LLAMA = Family(
    name="Llama",
    model_type="llama",
    causal="LlamaForCausalLM",
    classifier="LlamaForSequenceClassification",
    base="LlamaModel",
    style=STYLE,
    sizes=SIZES,
    tied=False,
    parts=(
        HeadSize(),
        Activation("hidden_act", GATED),
        ATTENTION_BIAS,
        Flag("mlp_bias", ("mlp_bias",), False),
        Rope(),
    ),
    tensors=TENSORS,
    prefix=PREFIX,
    buffers=BUFFERS,
    only={"rope_interleaved": (False,)},
)

MISTRAL = Family(
    name="Mistral",
    model_type="mistral",
    causal="MistralForCausalLM",
    classifier="MistralForSequenceClassification",
    base="MistralModel",
    style=STYLE,
    sizes={
        **SIZES,
        "num_key_value_heads": Size("kv_heads", 8),
        "max_position_embeddings": Size("max_positions", 131072),
    },
    tied=False,
    parts=(HeadSize(), Activation("hidden_act", GATED), Rope(), EveryLayerWindow()),
    tensors=TENSORS,
    prefix=PREFIX,
    buffers=BUFFERS,
)

QWEN2 = Family(
    name="Qwen2",
    model_type="qwen2",
    causal="Qwen2ForCausalLM",
    classifier="Qwen2ForSequenceClassification",
    base="Qwen2Model",
    style={**STYLE, "qkv_bias": True},
    sizes={
        **SIZES,
        "num_key_value_heads": Size("kv_heads", 32),
        "max_position_embeddings": Size("max_positions", 32768),
    },
    tied=False,
    parts=(HeadSize(), Activation("hidden_act", GATED), Rope(), LayerTypes("qwen")),
    tensors=TENSORS,
    prefix=PREFIX,
    buffers=BUFFERS,
    only={"use_mrope": (False,)},
)

QWEN3 = Family(
    name="Qwen3",
    model_type="qwen3",
    causal="Qwen3ForCausalLM",
    classifier="Qwen3ForSequenceClassification",
    base="Qwen3Model",
    style={**STYLE, "qk_norm": True},
    sizes={
        **SIZES,
        "num_key_value_heads": Size("kv_heads", 32),
        "max_position_embeddings": Size("max_positions", 32768),
    },
    tied=False,
    parts=(HeadSize(128), Activation("hidden_act", GATED), ATTENTION_BIAS, Rope(), LayerTypes("qwen")),
    tensors=TENSORS,
    prefix=PREFIX,
    buffers=BUFFERS,
)
