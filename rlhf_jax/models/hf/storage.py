"""The safetensors files of a folder: which tensors they hold, each a memory-mapped array. Nothing is unpickled."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from rlhf_jax.errors import UserError
from rlhf_jax.foreign import MOST_JSON, check_file, read_json_object

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16),
    "F64": np.dtype(np.float64),
}
_OTHERS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf")


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies: its file, the byte it begins at, its type in the words of safetensors, its shape."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        """The tensor, memory-mapped: read where it is touched, unmapped when nobody holds it."""
        if not all(self.shape):
            return np.zeros(self.shape, _DTYPES[self.dtype])
        return np.memmap(self.file, _DTYPES[self.dtype], "r", self.offset, self.shape)

    @property
    def readable(self) -> bool:
        """Whether it holds numbers of a kind that a parameter can be."""
        return self.dtype in _DTYPES


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """Every tensor of ``model.safetensors``, or of the files that ``model.safetensors.index.json`` lists, by name.

    Raises:
      UserError: there are none, a file is damaged, or the index and the files do not agree.
    """
    if (directory / WEIGHTS).is_file():
        return _file_tensors(directory / WEIGHTS)
    if not (directory / INDEX).is_file():
        others = sorted(path.name for path in directory.glob("*") if path.suffix in _OTHERS)
        hint = f"; {others[0]} is not read: weights come from safetensors alone" if others else ""
        raise UserError(f"{directory}: no {WEIGHTS} and no {INDEX}{hint}")
    places = _index(directory / INDEX)
    held = {name: _file_tensors(directory / name) for name in sorted(set(places.values()))}
    for name, file in places.items():
        if name not in held[file]:
            raise UserError(f"{directory / file}: {name}: missing, though {INDEX} says that it is here")
    for file, tensors in held.items():
        for name in tensors:
            if places.get(name) != file:
                raise UserError(f"{directory / file}: {name}: not what {INDEX} says of it")
    return {name: held[file][name] for name, file in places.items()}


def _index(path: Path) -> dict[str, str]:
    """The file of each tensor, a name without folders."""
    values = read_json_object(path)
    places = values.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path}: weight_map: missing")
    for name, file in places.items():
        plain = isinstance(file, str) and file.isprintable() and Path(file).name == file
        if not plain or not file.endswith(".safetensors"):
            raise UserError(f"{path}: weight_map: {name}: {file!r} is not the name of a safetensors file beside it")
    return places


def _file_tensors(path: Path) -> dict[str, Stored]:
    check_file(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_JSON:
                raise UserError(f"{path}: a header of {length:,} bytes; no more than {MOST_JSON:,} are read")
            with safe_open(path, framework="np"):
                pass  # the library checks the header: that it is JSON, that tensors fill the file and do not overlap
            header = json.loads(file.read(length), object_pairs_hook=partial(_once, path))
    except SafetensorError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from error
    header.pop("__metadata__", None)
    start = 8 + length
    return {
        name: Stored(path, start + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
    }


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; another reader may have taken the other of two values of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UserError(f"{path}: the header names something twice")
    return found
