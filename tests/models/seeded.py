"""Hugging Face folders with weights that follow from a seed, and a batch for them; nothing here needs torch."""

import json
import math
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

PAD, EOS, VOCAB = 0, 1, 50


def uniform(seed: int, shape: Sequence[int]) -> np.ndarray:
    """Float64 numbers of mean 0 and variance 1, out of the raw bits of PCG64, which no version of NumPy may change."""
    bits = np.random.PCG64(seed).random_raw(math.prod(shape)) >> np.uint64(11)
    return (bits * 2.0**-52 - 1.0).reshape(shape) * math.sqrt(3.0)


def weights(name: str, shape: Sequence[int], model_type: str) -> np.ndarray:
    """A tensor of which every number matters: no zero bias, no scale of one, attention far from uniform."""
    values = uniform(zlib.crc32(name.encode()), shape)
    if len(shape) == 1:  # Gemma multiplies by one plus what is stored
        centre = 0.0 if name.endswith("bias") or model_type.startswith("gemma") else 1.0
        values = centre + 0.3 * values
    else:
        values *= 0.4 if any(part in name for part in ("emb", "wte", "wpe")) else 0.25
    return values.astype(np.float32)


def write_folder(folder: pathlib.Path, config: Mapping[str, Any], tensors: Mapping[str, Sequence[int]]) -> None:
    """``config.json`` and the named tensors in two safetensors files with an index."""
    (folder / "config.json").write_text(json.dumps(config))
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        held = {name: weights(name, tensors[name], config["model_type"]) for name in tensors if places[name] == file}
        safetensors.numpy.save_file(held, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of four rows of 16 tokens: padded on the left, on the right, on both sides, not at all."""
    ids = (3 + np.random.PCG64(5).random_raw(64) % np.uint64(VOCAB - 3)).astype(np.int32).reshape(4, 16)
    mask = np.ones(ids.shape, bool)
    mask[0, :6] = mask[1, 9:] = mask[2, :2] = mask[2, 12:] = False
    return np.where(mask, ids, PAD), mask


def sample(logits: np.ndarray) -> np.ndarray:
    """What is kept of logits (B, T, V): of each row its last three tokens, and every fifth word, (B, 3, V / 5)."""
    last = np.array([16, 9, 12, 16])[:, None] - np.array([3, 2, 1])
    return logits[np.arange(4)[:, None], last, ::5]
