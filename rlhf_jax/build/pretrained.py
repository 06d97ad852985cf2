"""Decoders that begin with the weights of a Hugging Face folder, ``config.model.path``."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from rlhf_jax.config import default_config
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import said
from rlhf_jax.models import DecoderSpec, hf, init_decoder
from rlhf_jax.parallel import Executor
from rlhf_jax.types import Params

# What config.model has words for; the rest of a folder's options are its own.
_TAKEN = (
    *("width", "depth", "heads", "kv_heads", "mlp_width", "norm", "positions", "activation", "tied"),
    "max_positions",
)


def folder_of(path: str, *, weights: bool) -> Path:
    """The local folder of ``config.model.path``; of a hub name the snapshot, downloaded if it is not there yet.

    Only JSON and, with ``weights``, safetensors are asked for.

    Raises:
      UserError: there is no such folder, and no such repository to be had.
    """
    if Path(path).is_dir():
        return Path(path)
    if Path(path).exists():
        raise UserError(f"config.model.path: {path}: not a folder; archives are not unpacked")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors"] if weights else ["config.json"]
    try:
        return Path(snapshot_download(path, allow_patterns=patterns))
    except Exception as error:  # of the network, of the hub, of a name that is none
        told = said(error, typed=True)
        raise UserError(f"config.model.path: {path}: no such folder, and not to be had from the hub ({told})") from None


def folder_spec(model: ConfigDict, vocab_size: int) -> DecoderSpec:
    """The decoder of the folder, with a token more for each that only the tokenizer has. Raises UserError."""
    spec = hf.read_spec(folder_of(model.path, weights=False))
    return dataclasses.replace(
        spec,
        vocab_size=max(spec.vocab_size, vocab_size),
        dtype=model.dtype,
        attention=model.attention,
        remat=model.remat,
    )


def take_over_sizes(config: ConfigDict) -> None:
    """Put the sizes of the folder into ``config.model``, so that the configuration says what it trains.

    Raises:
      UserError: the folder cannot be read, the configuration asks for other sizes, or texts are longer than it allows.
    """
    model = config.model
    if not model.path:
        return
    spec, usual = hf.read_spec(folder_of(model.path, weights=False)), default_config().model
    for key in _TAKEN:
        own, theirs = model[key], getattr(spec, key)
        if own not in (usual[key], theirs):
            raise UserError(f"config.model.{key}: {own}, but {model.path} has {theirs}")
        model[key] = theirs
    longest = config.data.max_prompt + config.data.max_response
    if longest > spec.max_positions:
        raise UserError(
            f"config.model.max_positions: {spec.max_positions} in {model.path} is less than "
            f"config.data.max_prompt + max_response = {longest} tokens"
        )


def start_decoder(config: ConfigDict, executor: Executor, spec: DecoderSpec, key: jax.Array) -> Params:
    """The parameters that training begins with: those of ``config.model.path``, or fresh ones.

    Those of a folder are placed as they are read, each leaf where a state's belongs.

    Raises:
      UserError: the folder is not what its ``config.json`` says.
    """
    if not config.model.path:
        made: Params = executor.make(partial(init_decoder, spec), key)
        return made
    shapes = jax.eval_shape(partial(init_decoder, spec), key)
    placed = executor.shardings(shapes, "state")
    places = {hf.path_of(path): place for path, place in jax.tree_util.tree_leaves_with_path(placed)}
    folder = folder_of(config.model.path, weights=True)
    return hf.load(folder, placing=places.__getitem__, vocab_size=spec.vocab_size, dtype=spec.dtype)[1]
