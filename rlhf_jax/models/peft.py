"""Adapters as folders of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``, by its names.

PEFT keeps A as (r, inputs) and B as (outputs, r) and multiplies by ``lora_alpha / r``. Architectures with a layer for
each of our kernels take them as they are. GPT-2 has queries, keys and values in one layer: their adapters become one,
of their ranks together, B in blocks, with an alpha that leaves the scale as it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from rlhf_jax.errors import UserError
from rlhf_jax.models.lora import LoRASpec
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LLAMA = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_GPT2 = {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
_FUSED, _IN_ONE = "attn.c_attn", ("q", "k", "v")
# The model types whose layers have these names.
_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
LAYOUTS = (*_LIKE_LLAMA, "gpt2")


def adapter_config(model_type: str, lora: LoRASpec, *, reward: bool) -> dict[str, Any]:
    """``adapter_config.json``; where the base model will lie is left to the reader.

    Raises:
      UserError: adapters of this architecture cannot be written.
    """
    if model_type not in LAYOUTS:
        raise UserError(f"export: --adapter: no names are known for {model_type}, only for {', '.join(LAYOUTS)}")
    fused = [target for target in lora.targets if model_type == "gpt2" and target in _IN_ONE]
    names = _GPT2 if model_type == "gpt2" else _LLAMA
    modules = [names[target] for target in lora.targets if target not in fused]
    modules = modules if model_type == "gpt2" else [name.rpartition(".")[2] for name in modules]
    many = len(fused)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if reward else "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": model_type == "gpt2",
        "target_modules": sorted(modules + [_FUSED] * bool(fused)),
        "rank_pattern": {_FUSED: many * lora.rank} if many > 1 else {},
        "alpha_pattern": {_FUSED: many * lora.alpha} if many > 1 else {},
        "modules_to_save": ["score"] if reward else None,
    }


def adapter_tensors(model_type: str, spec: DecoderSpec, params: Params, *, reward: bool) -> dict[str, np.ndarray]:
    """The tensors of an adapted decoder or, of a reward model, those of its decoder and its head."""
    layers = (params["decoder"] if reward else params)["layers"]
    flat = {**layers, **layers["attention"]}
    adapters = {name: flat[name] for name in _LLAMA if "lora_a" in flat.get(name, {})}
    tensors: dict[str, np.ndarray] = {}
    for layer in range(spec.depth):
        own = {name: (_array(one["lora_a"][layer]), _array(one["lora_b"][layer])) for name, one in adapters.items()}
        if model_type == "gpt2":
            named = {f"transformer.h.{layer}.{_GPT2[name]}": pair for name, pair in own.items() if name in _GPT2}
            if any(name in own for name in _IN_ONE):
                named[f"transformer.h.{layer}.{_FUSED}"] = _fused(spec, own)
        else:
            named = {f"model.layers.{layer}.{_LLAMA[name]}": pair for name, pair in own.items()}
        for name, (a, b) in named.items():
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(a.T)
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(b.T)
    if reward:
        tensors[f"{_PREFIX}score.weight"] = _array(params["head"]["kernel"])[None]
    return tensors


def _array(leaf: Any) -> Float[np.ndarray, "..."]:
    return np.asarray(leaf, np.float32)


def _fused(
    spec: DecoderSpec, own: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[Float[np.ndarray, "D r"], Float[np.ndarray, "r E"]]:
    """One adapter of the layer of queries, keys and values, whose key-value heads are repeated for the query heads."""
    blocks, size = [], spec.heads * spec.head_dim
    for place, name in enumerate(_IN_ONE):
        if name not in own:
            continue
        b = own[name][1]
        if name != "q":
            heads = b.reshape(len(b), spec.kv_heads, spec.head_dim)
            b = heads.repeat(spec.heads // spec.kv_heads, axis=1).reshape(len(b), -1)
        blocks.append(np.pad(b, ((0, 0), (place * size, (2 - place) * size))))
    return np.concatenate([own[name][0] for name in _IN_ONE if name in own], axis=1), np.concatenate(blocks)


def write_adapter(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write both files into an existing folder. Raises OSError as the disk does."""
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    try:
        safetensors.numpy.save_file(dict(tensors), directory / WEIGHTS, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(None, str(error)) from error
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)  # the library makes it the owner's alone
