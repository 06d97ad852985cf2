"""Gemma, 1 to 3: embeddings times sqrt(width), RMSNorm by 1 + weight, a feed-forward network gated by GELU.

Gemma 2 caps attention scores and logits and norms what a layer adds; Gemma 3 norms queries and keys instead of capping
scores, and gives local layers a rotary base of their own.
"""

from rlhf_jax.models.hf.family import Family, Size
from rlhf_jax.models.hf.llama import ATTENTION_BIAS, BUFFERS, LAYER, PREFIX, SIZES, TENSORS
from rlhf_jax.models.hf.parts import GATED_GELU, Activation, HeadSize, LayerTypes, QueryScale, Rope, Softcap, TwoRopes
from rlhf_jax.models.hf.tensors import same

STYLE = {"norm": "rms1p", "positions": "rotary", "scaled_embeddings": True}
# Bidirectional variants see later tokens.
ONLY = {"use_bidirectional_attention": (None, False)}
POST_NORM = f"{LAYER}.post_attention_layernorm.weight"
# The norm that Llama has after attention is here one of what attention adds, and another comes before the network.
TENSORS_2 = (
    *(tensor for tensor in TENSORS if tensor.theirs != POST_NORM),
    same(POST_NORM, "layers/attention_post_norm/scale"),
    same(f"{LAYER}.pre_feedforward_layernorm.weight", "layers/mlp_norm/scale"),
    same(f"{LAYER}.post_feedforward_layernorm.weight", "layers/mlp_post_norm/scale"),
)

GEMMA = Family(
    name="Gemma",
    model_type="gemma",
    causal="GemmaForCausalLM",
    classifier="GemmaForSequenceClassification",
    base="GemmaModel",
    style=STYLE,
    sizes={
        **SIZES,
        "num_key_value_heads": Size("kv_heads", 16),
        "max_position_embeddings": Size("max_positions", 8192),
    },
    tied=True,
    parts=(
        HeadSize(256),
        # In this family's folders gelu has always meant the tanh approximation.
        Activation("hidden_act", {**GATED_GELU, "gelu": "geglu"}),
        ATTENTION_BIAS,
        Rope(),
    ),
    tensors=TENSORS,
    prefix=PREFIX,
    buffers=BUFFERS,
    only={**ONLY, "hidden_activation": (None, "gelu_pytorch_tanh")},
)

GEMMA2 = Family(
    name="Gemma2",
    model_type="gemma2",
    causal="Gemma2ForCausalLM",
    classifier="Gemma2ForSequenceClassification",
    base="Gemma2Model",
    style={**STYLE, "post_norms": True},
    sizes={
        **SIZES,
        "num_key_value_heads": Size("kv_heads", 4),
        "max_position_embeddings": Size("max_positions", 8192),
    },
    tied=True,
    parts=(
        HeadSize(256),
        Activation("hidden_activation", GATED_GELU),
        ATTENTION_BIAS,
        QueryScale(),
        Softcap("attn_logit_softcapping", "attention_softcap", 50.0),
        Softcap("final_logit_softcapping", "logit_softcap", 30.0),
        Rope(),
        LayerTypes(2),
    ),
    tensors=TENSORS_2,
    prefix=PREFIX,
    buffers=BUFFERS,
    only={**ONLY, "hidden_act": ("gelu_pytorch_tanh",)},
)

GEMMA3 = Family(
    name="Gemma3",
    model_type="gemma3_text",
    causal="Gemma3ForCausalLM",
    classifier="Gemma3TextForSequenceClassification",
    base="Gemma3TextModel",
    style={**STYLE, "post_norms": True, "qk_norm": True},
    sizes={
        **SIZES,
        "num_key_value_heads": Size("kv_heads", 4),
        "max_position_embeddings": Size("max_positions", 131072),
    },
    tied=True,
    parts=(
        HeadSize(256),
        Activation("hidden_activation", GATED_GELU),
        ATTENTION_BIAS,
        QueryScale(),
        Softcap("final_logit_softcapping", "logit_softcap", None),
        TwoRopes(),
        LayerTypes(6),
    ),
    tensors=TENSORS_2,
    prefix=PREFIX,
    buffers=BUFFERS,
    only={**ONLY, "hidden_act": ("gelu_pytorch_tanh",), "attn_logit_softcapping": (None,)},
)
