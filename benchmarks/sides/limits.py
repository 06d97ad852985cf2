"""What the machine can do at most, by one library: products of matrices, and reading memory."""

from collections.abc import Callable
from typing import Any

from benchmarks.harness.worker import Answer, measured

SIDE = 2048  # of the matrices
FLOATS = 64 * 2**20  # read at once, 256 MiB


def limits(product: Callable[[], Any], read: Callable[[], Any]) -> dict[str, Callable[[], Answer]]:
    """The actions ``gemm`` and ``bandwidth`` of a side: of several goes the best, which others disturbed least."""

    def best(do: Callable[[], Any], times: int) -> Answer:
        found = []
        for _ in range(times):
            one: Answer = {}
            with measured(one):
                do()
            found.append(one)
        return {name: min(one[name] for one in found) for name in ("cpu", "wall")}

    product(), read()  # compiled
    return {
        "gemm": lambda: best(product, 3) | {"flops": 2.0 * SIDE**3},
        "bandwidth": lambda: best(read, 5) | {"bytes": 4.0 * FLOATS},
    }
