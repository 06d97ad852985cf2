"""One of the processes that share a damaged checkpoint: ``python -m tests.multiprocess.damaged MISHAP FOLDER``.

MISHAP is ``bit`` (one bit of the newest step is flipped), ``unread`` (the last process alone cannot read it), ``copy``
(of parameters that each process has whole, the last one's alone are not what was saved). Writes what was restored, as
JSON, to FOLDER/NUMBER.json.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.parallel import MeshExecutor, is_first, join, wait_for_all
from rlhf_jax.types import TrainState


def state(step: int) -> TrainState:
    params = {"embedding": jnp.arange(8.0 * 16).reshape(8, 16) * step}
    return TrainState(jnp.int32(step), params, {"mu": params["embedding"] / 7}, jax.random.key(step), {})


def damage(folder: pathlib.Path) -> None:
    for path in folder.glob("4/params/**/d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))


def another(leaf: jax.Array) -> jax.Array:
    """The copies of this process with their first numbers changed; nobody is asked."""
    own = [jax.device_put(shard.data + 1, shard.device) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, own)


def main(mishap: str, folder: pathlib.Path) -> None:
    join()
    executor = MeshExecutor(jax.devices(), fsdp=1 if mishap == "copy" else 4)
    with Checkpoints(folder / "c") as checkpoints:
        for step in (2, 4):
            checkpoints.save(executor.place(state(step), "state"), {"batches": step})
    wait_for_all("saved")
    if mishap == "bit" and is_first():
        damage(folder / "c")
    wait_for_all("damaged")
    restore = ocp.StandardCheckpointHandler.restore

    def unread(self: Any, directory: Any, *args: Any, **settings: Any) -> Any:
        if directory.parent.name == "4":
            if mishap == "unread":
                raise ValueError("a reading of this process alone")
            if directory.name == "params":
                return jax.tree.map(another, restore(self, directory, *args, **settings))
        return restore(self, directory, *args, **settings)

    if mishap != "bit" and jax.process_index() == jax.process_count() - 1:
        ocp.StandardCheckpointHandler.restore = unread
    with Checkpoints(folder / "c") as checkpoints:
        found = checkpoints.restore_newest(executor.place(state(0), "state"))
        assert found is not None
        latest = checkpoints.latest()
    same = jax.tree.map(lambda a, b: bool((a == b).all()), found.state, executor.place(state(found.step), "state"))
    about = {"step": found.step, "latest": latest, "notes": found.notes, "same": all(jax.tree.leaves(same))}
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
