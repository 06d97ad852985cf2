"""Write the golden checkpoint of the format that stands: ``python -m tests.reliability.make_golden``.

For a new format only: what a released version wrote has to stay as it is.
"""

import pathlib
import shutil
import tempfile

import jax.numpy as jnp

from rlhf_jax.checkpoints import FORMAT, Checkpoints
from tests.reliability import states

GOLDEN = pathlib.Path(__file__).parent / "golden"
STEP = 3
DTYPE = jnp.bfloat16
IDENTITY = {"stage": "sft", "data": "d" * 64, "tokenizer": "e" * 64, "config": {"sft.steps": 3}}


def main() -> None:
    folder = GOLDEN / f"format_{FORMAT}"
    if folder.exists():
        raise SystemExit(f"{folder} is there already")
    with tempfile.TemporaryDirectory() as scratch:
        with Checkpoints(scratch, identity=IDENTITY) as checkpoints:
            checkpoints.save(states.state(STEP, DTYPE), states.meta(STEP))
        step = pathlib.Path(scratch) / str(STEP)
        for path in step.rglob("commit_success.txt"):  # no restore reads it, and it names the folder it was written to
            path.unlink()
        shutil.copytree(step, folder / str(STEP))


if __name__ == "__main__":
    main()
