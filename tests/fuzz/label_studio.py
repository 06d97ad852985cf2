"""Exports of Label Studio: an array of tasks."""

import json
import pathlib
import tempfile

import atheris

with atheris.instrument_imports(include=["rlhf_jax.data"]):
    from rlhf_jax.data.readers import read_file

from tests.data.published import FIXTURES
from tests.fuzz.harness import fuzz

PATH = pathlib.Path(tempfile.mkdtemp()) / "f.json"


def target(data: bytes) -> None:
    PATH.write_bytes(data)
    read_file(PATH, "label_studio")


if __name__ == "__main__":
    fuzz(target, (json.dumps(list(f.rows)).encode() for f in FIXTURES.values() if f.format == "label_studio"))
