"""Files of feedback: the first byte says as which format, the rest is the file."""

import json
import pathlib
import tempfile

import atheris

with atheris.instrument_imports(include=["rlhf_jax.data"]):
    from rlhf_jax.data.readers import FORMATS, read_file

from tests.fuzz.harness import fuzz
from tests.reliability.rows import FORMS

PATH = pathlib.Path(tempfile.mkdtemp()) / "f.jsonl"


def target(data: bytes) -> None:
    if data:
        PATH.write_bytes(data[1:])
        read_file(PATH, FORMATS[data[0] % len(FORMATS)])


if __name__ == "__main__":
    fuzz(target, (bytes([FORMATS.index(f.format)]) + json.dumps(f.row).encode() for f in FORMS.values()))
