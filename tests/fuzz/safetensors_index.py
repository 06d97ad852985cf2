"""Folders of weights: after an odd first byte an index of files, after an even one a file of tensors."""

import json
import pathlib
import tempfile

import atheris
import numpy as np
from safetensors.numpy import save

with atheris.instrument_imports(include=["rlhf_jax.models.hf"]):
    from rlhf_jax.models.hf.storage import INDEX, WEIGHTS, stored_tensors

from tests.fuzz.harness import fuzz

WHOLE = save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)})
INDEXED, SINGLE = (pathlib.Path(tempfile.mkdtemp()) for _ in range(2))
(INDEXED / "model-1.safetensors").write_bytes(WHOLE)


def target(data: bytes) -> None:
    indexed = bool(data[:1] and data[0] % 2)
    folder, name = (INDEXED, INDEX) if indexed else (SINGLE, WEIGHTS)
    (folder / name).write_bytes(data[1:])
    for tensor in stored_tensors(folder).values():
        if tensor.readable:
            tensor.open()


if __name__ == "__main__":
    index = {"metadata": {"total_size": 32}, "weight_map": dict.fromkeys("ab", "model-1.safetensors")}
    fuzz(target, [b"\1" + json.dumps(index).encode(), b"\0" + WHOLE])
