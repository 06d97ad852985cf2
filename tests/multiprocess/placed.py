"""One of several processes that place batches of numbered lists: ``python -m tests.multiprocess.placed FOLDER``.

Each writes down the numbers that lie on its own devices, batch by batch, and whether all learn the whole batch.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from rlhf_jax.data.loader import stream
from rlhf_jax.parallel import MeshExecutor, join, to_host

LISTS, BATCH, PASSES = 24, 8, 3


def main(folder: pathlib.Path) -> None:
    join()
    executor = MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2)
    state = executor.place({"embedding": jax.numpy.arange(32.0).reshape(8, 4), "key": jax.random.key(3)}, "state")
    again = executor.place(state, "state")
    whole = to_host({"embedding": again["embedding"], "key": jax.random.key_data(again["key"])})
    np.testing.assert_array_equal(whole["embedding"], np.arange(32.0).reshape(8, 4))
    np.testing.assert_array_equal(whole["key"], jax.random.key_data(jax.random.key(3)))
    batches = stream(LISTS, BATCH, 0, lambda places: {"index": places})
    own = []
    for _ in range(PASSES * LISTS // BATCH):
        batch = next(batches)
        placed = executor.place(batch, "rows")["index"]
        np.testing.assert_array_equal(to_host(placed), batch["index"])
        # Rows are held once for each part of the tensor axis.
        own.append([int(row) for shard in placed.addressable_shards if shard.replica_id == 0 for row in shard.data])
    shards = [list(shard.data.shape) for shard in again["embedding"].addressable_shards]
    (folder / f"{jax.process_index()}.json").write_text(json.dumps({"rows": own, "shards": shards}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
