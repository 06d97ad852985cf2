"""Decoders as ``GPT2...``: LayerNorm, learned positions, GELU by its tanh approximation (``gelu_new``).

GPT-2 keeps kernels as (inputs, outputs), as we do, and queries, keys and values in one; its biases, which we do not
have, are zeros. It knows no grouped-query attention: each key-value head is repeated for the query heads that it
serves, which gives the same numbers and takes more memory.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rlhf_jax.models.hf_family import Family, Tensors, as_numpy, stacked, transposed
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

_NORMS = {"ln_1": "attention_norm", "ln_2": "mlp_norm"}


def _settings(spec: DecoderSpec) -> dict[str, Any]:
    return {
        "vocab_size": spec.vocab_size,
        "n_embd": spec.width,
        "n_inner": spec.mlp_width,
        "n_layer": spec.depth,
        "n_head": spec.heads,
        "n_positions": spec.max_positions,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": spec.norm_epsilon,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": spec.tied,
    }


def _fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": settings["vocab_size"],
        "width": settings["n_embd"],
        "depth": settings["n_layer"],
        "heads": settings["n_head"],
        "mlp_width": settings["n_inner"],
        "tied": settings["tie_word_embeddings"],
        "max_positions": settings["n_positions"],
        "norm_epsilon": settings["layer_norm_epsilon"],
    }


def _repeat(spec: DecoderSpec, kernel: Float[np.ndarray, "D G"]) -> Float[np.ndarray, "D D"]:
    heads = kernel.reshape(spec.width, spec.kv_heads, spec.head_dim)
    return heads.repeat(spec.heads // spec.kv_heads, axis=1).reshape(spec.width, spec.width)


def _group(spec: DecoderSpec, kernel: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D G"]:
    heads = kernel.reshape(spec.width, spec.heads, spec.head_dim)[:, :: spec.heads // spec.kv_heads]
    grouped = np.ascontiguousarray(heads).reshape(spec.width, spec.kv_heads * spec.head_dim)
    if not np.array_equal(_repeat(spec, grouped), kernel):
        raise ValueError(f"key and value heads are not those of {spec.kv_heads} repeated")
    return grouped


def _tensors(spec: DecoderSpec, decoder: Params) -> Tensors:
    named = {
        "transformer.wte.weight": as_numpy(decoder["embedding"]),
        "transformer.wpe.weight": as_numpy(decoder["position_embedding"]),
        "transformer.ln_f.weight": as_numpy(decoder["final_norm"]["scale"]),
        "transformer.ln_f.bias": as_numpy(decoder["final_norm"]["bias"]),
    }
    layers = decoder["layers"]
    attention = {name: as_numpy(layers["attention"][name]["kernel"]) for name in "qkvo"}
    up, down = as_numpy(layers["up"]["kernel"]), as_numpy(layers["down"]["kernel"])
    for layer in range(spec.depth):
        key, value = (_repeat(spec, attention[name][layer]) for name in "kv")
        kernels = {
            "attn.c_attn": np.concatenate([attention["q"][layer], key, value], axis=1),
            "attn.c_proj": attention["o"][layer],
            "mlp.c_fc": up[layer],
            "mlp.c_proj": down[layer],
        }
        for name, kernel in kernels.items():
            named[f"transformer.h.{layer}.{name}.weight"] = kernel
            named[f"transformer.h.{layer}.{name}.bias"] = np.zeros(kernel.shape[1], np.float32)
        for name, norm in _NORMS.items():
            named[f"transformer.h.{layer}.{name}.weight"] = as_numpy(layers[norm]["scale"])[layer]
            named[f"transformer.h.{layer}.{name}.bias"] = as_numpy(layers[norm]["bias"])[layer]
    if not spec.tied:
        named["lm_head.weight"] = transposed(as_numpy(decoder["output"]))
    return named


def _decoder(spec: DecoderSpec, tensors: Tensors) -> Params:
    def kernel(layer: int, name: str) -> Float[np.ndarray, "I O"]:
        if np.any(tensors.pop(f"transformer.h.{layer}.{name}.bias")):
            raise ValueError(f"transformer.h.{layer}.{name}.bias is not 0")
        return tensors.pop(f"transformer.h.{layer}.{name}.weight")

    def norm(name: str) -> Params:
        return {"scale": tensors.pop(f"{name}.weight"), "bias": tensors.pop(f"{name}.bias")}

    layers: list[Params] = []
    for number in range(spec.depth):
        query, key, value = np.split(kernel(number, "attn.c_attn"), 3, axis=1)
        attention = {
            "q": query,
            "k": _group(spec, key),
            "v": _group(spec, value),
            "o": kernel(number, "attn.c_proj"),
        }
        layers.append(
            {
                "attention": {name: {"kernel": array} for name, array in attention.items()},
                "up": {"kernel": kernel(number, "mlp.c_fc")},
                "down": {"kernel": kernel(number, "mlp.c_proj")},
                **{ours: norm(f"transformer.h.{number}.{theirs}") for theirs, ours in _NORMS.items()},
            }
        )
    decoder = {
        "embedding": jnp.asarray(tensors.pop("transformer.wte.weight")),
        "position_embedding": jnp.asarray(tensors.pop("transformer.wpe.weight")),
        "layers": stacked(layers),
        "final_norm": {name: jnp.asarray(array) for name, array in norm("transformer.ln_f").items()},
    }
    if not spec.tied:
        decoder["output"] = jnp.asarray(transposed(tensors.pop("lm_head.weight")))
    return decoder


GPT2 = Family(
    name="GPT2",
    model_type="gpt2",
    style={"norm": "layer", "positions": "learned", "activation": "gelu"},
    settings=_settings,
    fields=_fields,
    tensors=_tensors,
    decoder=_decoder,
)
