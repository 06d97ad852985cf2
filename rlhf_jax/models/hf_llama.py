"""Decoders as ``Llama...``: RMSNorm, rotary positions, SwiGLU, grouped-query attention, no biases.

Both rotate the channel pairs (c, c + C/2), so that kernels need nothing but a transposition.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from rlhf_jax.models.hf_family import Family, Tensors, as_numpy, stacked, transposed
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

_KERNELS = {
    "self_attn.q_proj": ("attention", "q"),
    "self_attn.k_proj": ("attention", "k"),
    "self_attn.v_proj": ("attention", "v"),
    "self_attn.o_proj": ("attention", "o"),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.down_proj": ("down",),
}
_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}


def _settings(spec: DecoderSpec) -> dict[str, Any]:
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_positions,
        "rms_norm_eps": spec.norm_epsilon,
        # The second is where readers looked before there was the first.
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "rope_theta": spec.rope_theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": spec.tied,
    }


def _fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": settings["vocab_size"],
        "width": settings["hidden_size"],
        "depth": settings["num_hidden_layers"],
        "heads": settings["num_attention_heads"],
        "kv_heads": settings["num_key_value_heads"],
        "mlp_width": settings["intermediate_size"],
        "tied": settings["tie_word_embeddings"],
        "max_positions": settings["max_position_embeddings"],
        "norm_epsilon": settings["rms_norm_eps"],
        "rope_theta": settings["rope_theta"],
    }


def _tensors(spec: DecoderSpec, decoder: Params) -> Tensors:
    named = {
        "model.embed_tokens.weight": as_numpy(decoder["embedding"]),
        "model.norm.weight": as_numpy(decoder["final_norm"]["scale"]),
    }
    for name, path in _KERNELS.items():
        kernels = decoder["layers"]
        for part in path:
            kernels = kernels[part]
        for layer, kernel in enumerate(as_numpy(kernels["kernel"])):
            named[f"model.layers.{layer}.{name}.weight"] = transposed(kernel)
    for name, norm in _NORMS.items():
        for layer, scale in enumerate(as_numpy(decoder["layers"][norm]["scale"])):
            named[f"model.layers.{layer}.{name}.weight"] = scale
    if not spec.tied:
        named["lm_head.weight"] = transposed(as_numpy(decoder["output"]))
    return named


def _decoder(spec: DecoderSpec, tensors: Tensors) -> Params:
    layers: list[Params] = []
    for number in range(spec.depth):
        layer: Params = {}
        for name, path in _KERNELS.items():
            node = layer
            for part in path:
                node = node.setdefault(part, {})
            node["kernel"] = transposed(tensors.pop(f"model.layers.{number}.{name}.weight"))
        for name, norm in _NORMS.items():
            layer[norm] = {"scale": tensors.pop(f"model.layers.{number}.{name}.weight")}
        layers.append(layer)
    decoder = {
        "embedding": jnp.asarray(tensors.pop("model.embed_tokens.weight")),
        "layers": stacked(layers),
        "final_norm": {"scale": jnp.asarray(tensors.pop("model.norm.weight"))},
    }
    if not spec.tied:
        decoder["output"] = jnp.asarray(transposed(tensors.pop("lm_head.weight")))
    return decoder


LLAMA = Family(
    name="Llama",
    model_type="llama",
    style={"norm": "rms", "positions": "rotary", "activation": "swiglu"},
    settings=_settings,
    fields=_fields,
    tensors=_tensors,
    decoder=_decoder,
)
