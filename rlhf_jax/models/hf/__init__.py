"""Models as Hugging Face folders: ``config.json`` and safetensors, written for ``transformers`` and read from it.

A reward model becomes ``...ForSequenceClassification``, which pools at the rightmost token that is not padding, as
``apply_reward_model`` does; a policy becomes ``...ForCausalLM``. Nothing here needs torch, nothing is pickled, and no
code of a folder is run.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float
from safetensors import SafetensorError

from rlhf_jax.errors import UserError
from rlhf_jax.foreign import read_json_object
from rlhf_jax.models.hf.family import Family
from rlhf_jax.models.hf.gemma import GEMMA, GEMMA2, GEMMA3
from rlhf_jax.models.hf.gpt import GPT2, GPT_NEO, GPT_NEOX
from rlhf_jax.models.hf.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from rlhf_jax.models.hf.load import Placing, fill, match, names_of, path_of
from rlhf_jax.models.hf.settings import Settings
from rlhf_jax.models.hf.storage import WEIGHTS, stored_tensors
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params

# In the order in which a decoder that is of more than one is written.
FAMILIES = (LLAMA, GPT2, MISTRAL, QWEN2, QWEN3, GPT_NEOX, GPT_NEO, GEMMA, GEMMA2, GEMMA3)
FRESH = (LLAMA, GPT2)  # those that a config without a folder leads to
CONFIG = "config.json"
SCORE = "score.weight"
Config: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, np.ndarray]


# ------------------------------------------------------------------------- reading


def read_spec(directory: Path | str) -> DecoderSpec:
    """The decoder of a folder, by its ``config.json`` alone.

    Raises:
      UserError: the architecture, a key or a value is not supported; names it.
    """
    return _read_config(Path(directory))[1]


def load(
    directory: Path | str, *, placing: Placing | None = None, vocab_size: int = 0, dtype: str = "float32"
) -> tuple[DecoderSpec, Params]:
    """The decoder of a ``...ForCausalLM`` folder, from one safetensors file or several with an index.

    Tensors are memory-mapped and read one at a time; each leaf is filled in its place and lives where ``placing`` says,
    by default on the first device. Everything is checked before anything is allocated. A ``vocab_size`` above that of
    the folder adds tokens that get the mean of its own. ``dtype`` is that of computation.

    Raises:
      UserError: one line, for anything that is missing, strange or not supported.
    """
    directory = Path(directory)
    family, spec = _read_config(directory)
    sources = match(family, spec, stored_tensors(directory), directory)
    size = max(vocab_size, spec.vocab_size)
    params = fill(spec, sources, size, placing)
    return dataclasses.replace(spec, vocab_size=size, dtype=dtype), params  # type: ignore[arg-type]


def load_reward_model(directory: Path | str) -> tuple[DecoderSpec, Params]:
    """The reward model of a folder that was written here: its decoder and its parameters ``decoder`` and ``head``.

    Parameters are the bits that were exported. A decoder whose output matrix was its own comes back as ``tied``: a
    reward model is written without one.

    Raises:
      UserError: there is no such folder, or something else is in it.
    """
    directory = Path(directory)
    if not isinstance(_config(directory).get("rlhf_jax"), dict):
        raise UserError(
            f"{directory / CONFIG}: rlhf_jax: missing; only folders that were written by rlhf-jax export can be read"
        )
    family, spec = _read_config(directory, reward=True)
    stored = stored_tensors(directory)
    score = stored.pop(SCORE, None)
    if score is None:
        raise UserError(f"{directory / WEIGHTS}: {SCORE}: missing")
    if (score.dtype, score.shape) != ("F32", (1, spec.width)):
        raise UserError(
            f"{directory / WEIGHTS}: {SCORE}: {score.dtype} of shape {score.shape}, not F32 {(1, spec.width)}"
        )
    sources = match(family, spec, stored, directory / WEIGHTS)
    head = {"kernel": jnp.asarray(np.array(score.open()[0]))}
    return spec, {"decoder": fill(spec, sources, spec.vocab_size, None), "head": head}


def _config(directory: Path) -> Config:
    settings = read_json_object(directory / CONFIG)
    if "auto_map" in settings:
        raise UserError(f"{directory / CONFIG}: auto_map: names code of the folder's own, and none is run")
    return settings


def _read_config(directory: Path, *, reward: bool = False) -> tuple[Family, DecoderSpec]:
    path, settings = directory / CONFIG, _config(directory)
    families = {family.model_type: family for family in FAMILIES}
    kind = settings.get("model_type")
    family = families.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UserError(f"{path}: model_type: {kind!r} is not one of {', '.join(families)}")
    names = settings.get("architectures") or [family.causal]
    wanted = {family.classifier} if reward else {family.causal, family.base}
    if not isinstance(names, list) or not set(map(str, names)) <= wanted:
        found = ", ".join(map(str, names)) if isinstance(names, list) else names
        raise UserError(f"{path}: architectures: {found} is not {' or '.join(sorted(wanted))}")
    try:
        spec = family.spec(Settings(settings, str(path)))
    except (ValueError, OverflowError) as error:  # options that cannot be together
        raise UserError(f"{path}: makes no decoder: {' '.join(str(error).split())[:200]}") from error
    return family, _own(path, family, spec, settings)


def _own(path: Path, family: Family, spec: DecoderSpec, settings: Config) -> DecoderSpec:
    """The decoder with what the section ``rlhf_jax`` of a folder that was written here says of it."""
    own = settings.get("rlhf_jax")
    if not isinstance(own, dict):
        return spec
    fields = {"kv_heads": own.get("kv_heads", spec.kv_heads)}
    if not own.get("biases", False):
        fields |= {name: False for name in family.fills if name.endswith("bias")}
    if type(fields["kv_heads"]) is not int or fields["kv_heads"] < 1 or spec.heads % fields["kv_heads"]:
        raise UserError(f"{path}: rlhf_jax.kv_heads: {fields['kv_heads']!r} does not divide {spec.heads} heads")
    if "compute_dtype" not in own:
        raise UserError(f"{path}: rlhf_jax.compute_dtype: missing")
    return dataclasses.replace(spec, **fields, dtype=own["compute_dtype"])


# ------------------------------------------------------------------------- writing


def family_of(spec: DecoderSpec) -> Family:
    """The architecture that computes what the decoder computes.

    Raises:
      UserError: there is none; names the config keys that stand in the way of those a config can lead to.
    """
    if spec.dtype == "float64":
        raise UserError("config.model.dtype: float64 parameters would be rounded; the export is in float32")
    obstacles = {}
    for family in FAMILIES:
        obstacles[family.name] = family.obstacles(spec)
        if not obstacles[family.name]:
            return family
    reasons = []
    for family in FRESH:
        wrong = [f"config.model.{key}={getattr(spec, key)}" for key in obstacles[family.name]]
        reasons.append(f"not {family.name} for its {' and '.join(wrong)}")
    wanted = (
        "norm=rms, positions=rotary, activation=swiglu|geglu or norm=layer, positions=learned, activation=gelu|gelu_erf"
    )
    raise UserError(f"export: this decoder is {', '.join(reasons)}; must be {wanted}")


def reward_decoder_spec(spec: DecoderSpec) -> DecoderSpec:
    """The decoder of a reward model as it leaves: without an output matrix, which no reward depends on."""
    return dataclasses.replace(spec, tied=True)


def model_config(spec: DecoderSpec, *, reward: bool, pad_id: int, eos_id: int, about: Mapping[str, Any]) -> Config:
    """The ``config.json`` of a reward model or of a policy; ``about`` becomes its ``rlhf_jax`` section.

    Raises:
      UserError: the decoder has no counterpart, or padding cannot be told from the end of a text.
    """
    family = family_of(spec)
    if pad_id == eos_id:
        raise UserError(f"export: the tokenizer pads with its end-of-sequence token (id {eos_id}); they must differ")
    settings = {
        "architectures": [family.classifier if reward else family.causal],
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
    own = {**about, "kv_heads": spec.kv_heads, "biases": spec.mlp_bias, "compute_dtype": spec.dtype}
    return settings | {"rlhf_jax": own}


def policy_tensors(spec: DecoderSpec, decoder: Params) -> Tensors:
    """Every tensor of a ``...ForCausalLM`` by its name. Raises UserError for a decoder without a counterpart."""
    family = family_of(spec)
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(decoder)}
    named: Tensors = {}
    for tensor in family.tensors:
        if tensor.ours[0] in leaves:
            parts = [as_numpy(leaves[path]) for path in tensor.ours]
        elif tensor.filled:  # zeros, as many as the kernel of the same layer has outputs
            kernels = [leaves[path.replace("/bias", "/kernel")] for path in tensor.ours]
            parts = [np.zeros((kernel.shape[0], kernel.shape[-1]), np.float32) for kernel in kernels]
        else:
            continue
        for layer, name in enumerate(names_of(tensor, spec)):
            own = [part[layer] for part in parts] if "{}" in tensor.theirs else parts
            named[name] = np.ascontiguousarray(tensor.layout.join(spec, own))
    return named


def reward_tensors(spec: DecoderSpec, params: Params) -> Tensors:
    """Every tensor of a ``...ForSequenceClassification`` by its name; ``params`` holds ``decoder`` and ``head``."""
    decoder = {name: part for name, part in params["decoder"].items() if name != "output"}
    tensors = policy_tensors(reward_decoder_spec(spec), decoder)
    return tensors | {SCORE: as_numpy(params["head"]["kernel"])[None]}


def as_numpy(leaf: jax.Array | np.ndarray) -> Float[np.ndarray, "..."]:
    """A parameter as a float32 array in C order, which is what safetensors writes."""
    return np.ascontiguousarray(leaf, np.float32)


def write_model(directory: Path, config: Config, tensors: Tensors) -> None:
    """Write ``config.json`` and ``model.safetensors`` into an existing folder. Raises OSError as the disk does."""
    (directory / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    try:
        # transformers asks for the format, which names the layout of tensors and not a need for torch.
        safetensors.numpy.save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(None, str(error)) from error
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)  # the library makes it the owner's alone


def save(directory: Path | str, spec: DecoderSpec, params: Params, *, pad_id: int, eos_id: int) -> None:
    """Write a decoder as a ``...ForCausalLM`` into an existing folder.

    Raises:
      UserError: it has no counterpart.
    """
    config = model_config(spec, reward=False, pad_id=pad_id, eos_id=eos_id, about={})
    write_model(Path(directory), config, policy_tensors(spec, params))
