"""Models as Hugging Face folders: ``config.json`` and ``model.safetensors``, written for ``transformers``, read back.

A reward model becomes ``...ForSequenceClassification``, which pools at the rightmost token that is not padding, as
``apply_reward_model`` does; a policy becomes ``...ForCausalLM``. Nothing here needs torch, and nothing is pickled.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import safetensors.numpy
from safetensors import SafetensorError

from rlhf_jax.errors import UserError
from rlhf_jax.models.decoder import init_decoder
from rlhf_jax.models.hf_family import Family, Tensors, as_numpy
from rlhf_jax.models.hf_gpt2 import GPT2
from rlhf_jax.models.hf_llama import LLAMA
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

FAMILIES = (LLAMA, GPT2)
CONFIG, WEIGHTS = "config.json", "model.safetensors"
Settings: TypeAlias = dict[str, Any]


def family_of(spec: DecoderSpec) -> Family:
    """The architecture that computes what the decoder computes.

    Raises:
      UserError: there is none; names the config keys that stand in the way of each.
    """
    if spec.dtype == "float64":
        raise UserError("config.model.dtype: float64 parameters would be rounded; the export is in float32")
    obstacles = {}
    for family in FAMILIES:
        wrong = [f"config.model.{key}={getattr(spec, key)}" for key in family.style if _differs(spec, family, key)]
        if not wrong:
            return family
        obstacles[family.name] = f"not {family.name} for its {' and '.join(wrong)}"
    wanted = " or ".join(", ".join(f"{key}={value}" for key, value in family.style.items()) for family in FAMILIES)
    raise UserError(f"export: this decoder is {', '.join(obstacles.values())}; must be {wanted}")


def _differs(spec: DecoderSpec, family: Family, key: str) -> bool:
    return bool(getattr(spec, key) != family.style[key])


def reward_decoder_spec(spec: DecoderSpec) -> DecoderSpec:
    """The decoder of a reward model as it leaves: without an output matrix, which no reward depends on."""
    return dataclasses.replace(spec, tied=True)


def model_config(spec: DecoderSpec, *, reward: bool, pad_id: int, eos_id: int, about: Mapping[str, Any]) -> Settings:
    """The ``config.json`` of a reward model or of a policy; ``about`` becomes its ``rlhf_jax`` section.

    Raises:
      UserError: the decoder has no counterpart, or padding cannot be told from the end of a text.
    """
    family = family_of(spec)
    if pad_id == eos_id:
        raise UserError(f"export: the tokenizer pads with its end-of-sequence token (id {eos_id}); they must differ")
    kind = "SequenceClassification" if reward else "CausalLM"
    settings = {
        "architectures": [f"{family.name}For{kind}"],
        "model_type": family.model_type,
        **family.settings(reward_decoder_spec(spec) if reward else spec),
        "pad_token_id": pad_id,
        "eos_token_id": eos_id,
        "bos_token_id": None,
        "dtype": "float32",
    }
    if reward:
        settings |= {
            "num_labels": 1,
            "id2label": {"0": "reward"},
            "label2id": {"reward": 0},
            "problem_type": "regression",
        }
    # What the architecture has no word for, and reading back needs.
    return settings | {"rlhf_jax": {**about, "kv_heads": spec.kv_heads, "compute_dtype": spec.dtype}}


def policy_tensors(spec: DecoderSpec, decoder: Params) -> Tensors:
    """Every tensor of a ``...ForCausalLM`` by its name. Raises UserError for a decoder without a counterpart."""
    return family_of(spec).tensors(spec, decoder)


def reward_tensors(spec: DecoderSpec, params: Params) -> Tensors:
    """Every tensor of a ``...ForSequenceClassification`` by its name; ``params`` holds ``decoder`` and ``head``."""
    tensors = family_of(spec).tensors(reward_decoder_spec(spec), params["decoder"])
    return tensors | {"score.weight": as_numpy(params["head"]["kernel"])[None]}


def write_model(directory: Path, config: Settings, tensors: Tensors) -> None:
    """Write ``config.json`` and ``model.safetensors`` into an existing folder. Raises OSError as the disk does."""
    (directory / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    try:
        # transformers asks for the format, which names the layout of tensors and not a need for torch.
        safetensors.numpy.save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(None, str(error)) from error
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)  # the library makes it the owner's alone


def load_reward_model(directory: Path | str) -> tuple[DecoderSpec, Params]:
    """The reward model of a folder that was written here: its decoder and its parameters ``decoder`` and ``head``.

    Parameters are the bits that were exported. A decoder whose output matrix was its own comes back as ``tied``: a
    reward model is written without one.

    Raises:
      UserError: there is no such folder, or something else is in it.
    """
    config, weights = Path(directory) / CONFIG, Path(directory) / WEIGHTS
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        tensors = safetensors.numpy.load_file(weights)
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{config}: not JSON: {error}") from error
    except SafetensorError as error:
        raise UserError(f"{weights}: {error}") from error
    family, spec = _read_config(config, settings)
    try:
        head = {"kernel": jnp.asarray(tensors.pop("score.weight")[0])}
        params = {"decoder": family.decoder(spec, tensors), "head": head}
    except KeyError as error:
        raise UserError(f"{weights}: {error.args[0]}: missing") from error
    except ValueError as error:
        raise UserError(f"{weights}: {error}") from error
    if tensors:
        raise UserError(f"{weights}: {min(tensors)}: not a tensor of {family.name}ForSequenceClassification")
    like = {
        "decoder": jax.eval_shape(partial(init_decoder, spec), jax.random.key(0)),
        "head": {"kernel": jax.ShapeDtypeStruct((spec.width,), jnp.float32)},
    }
    for (path, found), wanted in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(like), strict=True):
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UserError(
                f"{weights}: {name}: {found.dtype} of shape {found.shape}, but {CONFIG} says "
                f"{wanted.dtype} of shape {wanted.shape}"
            )
    return spec, params


def _read_config(path: Path, settings: Any) -> tuple[Family, DecoderSpec]:
    if not isinstance(settings, dict) or not isinstance(settings.get("rlhf_jax"), dict):
        raise UserError(f"{path}: rlhf_jax: missing; only folders that were written by rlhf-jax export can be read")
    families = {f"{family.name}ForSequenceClassification": family for family in FAMILIES}
    architecture = str((settings.get("architectures") or [""])[0])
    if architecture not in families:
        raise UserError(f"{path}: architectures: {architecture} is not one of {', '.join(families)}")
    family, own = families[architecture], settings["rlhf_jax"]
    try:
        fields = {"kv_heads": own["kv_heads"], **family.fields(settings)}
        spec = DecoderSpec(**fields, **family.style, dtype=own["compute_dtype"])  # type: ignore[arg-type]
        jax.eval_shape(partial(init_decoder, spec), jax.random.key(0))
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}: missing") from error
    except Exception as error:  # sizes that make no decoder
        raise UserError(f"{path}: makes no decoder: {' '.join(str(error).split())[:200]}") from error
    return family, spec
