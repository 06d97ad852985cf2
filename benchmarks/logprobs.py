"""Token log-probabilities and their gradient: all logits at once beside chunks of tokens, in time and in memory.

    python -m benchmarks.logprobs [--rows=16] [--length=256] [--width=64] [--vocabulary=50257] [--dtype=float32]
        [--chunks=1,4,16,64] [--rounds=5]

For a gradient of the SFT loss in hidden states and output matrix, and for a forward pass: the peak of temporary memory
that the compiled program asks for, and the best time of rounds in which every way takes its turn. The range is that of
the ratios within a round, where whatever else the machine does is done to both. The first row is what there was before,
all logits in one piece; the second is the same again, and how far it is from the first is what the clock cannot tell
apart. Prints one JSON line and a table; nothing is asserted.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.models import DecoderSpec, output_logits
from rlhf_jax.objectives.likelihood import chunked_logprobs


def programs(spec: DecoderSpec, chunk: int) -> dict[str, Callable[..., Any]]:
    """Forward: log-probabilities. Gradient: of their sum in the hidden states and the output matrix."""

    def logprobs(params: Any, hidden: jax.Array, ids: jax.Array) -> jax.Array:
        return chunked_logprobs(hidden, ids, partial(output_logits, spec, params), chunk=chunk)

    return {
        "forward": logprobs,
        "gradient": jax.grad(lambda params, hidden, ids: jnp.sum(logprobs(params, hidden, ids)), (0, 1)),
    }


def seconds(program: Callable[..., Any], args: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way and program, its ratios to all at once."""
    spec = DecoderSpec(vocab_size=args.vocabulary, width=args.width, dtype=args.dtype)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"embedding": 0.02 * jax.random.normal(keys[0], (args.vocabulary, args.width))}
    hidden = jax.random.normal(keys[1], (args.rows, args.length, args.width), spec.compute_dtype)
    ids = jax.random.randint(keys[2], (args.rows, args.length), 0, args.vocabulary)
    ways = {"all at once": args.length, "the same again": args.length}
    ways |= {f"{chunk} tokens a row": chunk for chunk in map(int, args.chunks.split(",")) if chunk < args.length}
    rows = []
    for name in ("forward", "gradient"):
        compiled = {
            way: jax.jit(programs(spec, chunk)[name]).lower(params, hidden, ids).compile()
            for way, chunk in ways.items()
        }
        memory = {way: one.memory_analysis().temp_size_in_bytes for way, one in compiled.items()}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(args.rounds + 1):
            for way, one in compiled.items():
                took = seconds(one, (params, hidden, ids))
                if number:  # the first warms up
                    times[way].append(took)
        first = next(iter(ways))
        for way, chunk in ways.items():
            ratios = [own / other for own, other in zip(times[way], times[first], strict=True)]
            rows.append(
                {
                    "program": name,
                    "way": way,
                    "logits_at_once": args.rows * chunk * args.vocabulary,
                    "MiB": memory[way] / 2**20,
                    "memory_ratio": memory[way] / memory[first],
                    "seconds": min(times[way]),
                    "time_ratio": min(times[way]) / min(times[first]),
                    "time_ratio_range": [min(ratios), max(ratios)],
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 16), ("length", 256), ("width", 64), ("vocabulary", 50_257), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunks", default="1,4,16,64")
    args = parser.parse_args()
    rows = measure(args)
    print(json.dumps({**vars(args), "device": jax.devices()[0].device_kind, "rows_measured": rows}))
    print(f"{'':10}{'':20}{'MiB':>10}{'ratio':>8}{'ms':>10}{'ratio':>8}   range")
    for row in rows:
        low, high = row["time_ratio_range"]
        print(
            f"{row['program']:10}{row['way']:20}{row['MiB']:10.1f}{row['memory_ratio']:8.3f}"
            f"{1000 * row['seconds']:10.1f}{row['time_ratio']:8.2f}   {low:.2f} to {high:.2f}"
        )


if __name__ == "__main__":
    main()
