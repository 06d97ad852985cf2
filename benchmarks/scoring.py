"""Scoring responses under reference and reward model: two forward passes beside one that both read.

    python -m benchmarks.scoring [--rows=32] [--prompt=16] [--response=48] [--width=64] [--depth=4] [--vocabulary=256]
        [--rounds=5]

Everything of a rollout but the sampling and the value model: the reference's log-probabilities and the rewards of a
head, on a decoder of its own and on the reference itself. A reward stage makes such heads with
config.reward.train=head. Floating-point operations as the compiler counts them, and the best time of rounds in which
every way takes its turn; "the same again" is what the clock cannot tell apart. Prints one JSON line and a table;
nothing is asserted.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from rlhf_jax.generation import response_logprobs
from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    apply_reward_model,
    at_last,
    init_reward_model,
    output_logits,
    positions_of,
    read_reward,
)
from rlhf_jax.objectives.likelihood import chunked_logprobs


def ways(spec: DecoderSpec, length: int) -> dict[str, Callable[..., Any]]:
    """Each gives (log-probabilities, rewards) of rows."""

    def apart(decoder: Any, reward: Any, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        logprobs = response_logprobs(spec, decoder, ids, mask, response_length=length, temperature=1.0)
        return logprobs, apply_reward_model(spec, reward, ids, mask, bounded=True)

    def together(decoder: Any, reward: Any, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden = apply_decoder(spec, decoder, ids, positions_of(mask), mask)
        logits_of = partial(output_logits, spec, decoder)
        logprobs = chunked_logprobs(hidden[:, -length - 1 : -1], ids[:, -length:], logits_of)
        return logprobs, read_reward(reward["head"], at_last(hidden, mask), bounded=True)

    return {"two passes": apart, "the same again": apart, "one pass": together}


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way, its ratio to two passes."""
    spec = DecoderSpec(args.vocabulary, width=args.width, depth=args.depth, mlp_width=4 * args.width)
    reference = init_reward_model(spec, jax.random.key(0))
    other = init_reward_model(spec, jax.random.key(1))
    shape = (args.rows, args.prompt + args.response)
    ids = jax.random.randint(jax.random.key(2), shape, 0, args.vocabulary)
    mask = jax.numpy.ones(shape, bool)
    arguments = {"one pass": (reference["decoder"], {"head": other["head"]}, ids, mask)}
    compiled = {}
    for way, function in ways(spec, args.response).items():
        own = arguments.setdefault(way, (reference["decoder"], other, ids, mask))
        compiled[way] = jax.jit(function).lower(*own).compile()
    times: dict[str, list[float]] = {way: [] for way in compiled}
    for number in range(args.rounds + 1):
        for way, one in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(one(*arguments[way]))
            if number:  # the first warms up
                times[way].append(time.perf_counter() - start)
    best, operations = min(times["two passes"]), compiled["two passes"].cost_analysis()["flops"]
    return [
        {
            "way": way,
            "seconds": min(own),
            "ratio": min(own) / best,
            "ratio_range": [min(both), max(both)],
            "operations_ratio": compiled[way].cost_analysis()["flops"] / operations,
            "MiB": sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[way][:2])) / 2**20,
        }
        for way, own in times.items()
        for both in [[a / b for a, b in zip(own, times["two passes"], strict=True)]]
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"rows": 32, "prompt": 16, "response": 48, "width": 64, "depth": 4, "vocabulary": 256, "rounds": 5}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rows = measure(args)
    print(json.dumps({**vars(args), "device": jax.devices()[0].device_kind, "measured": rows}))
    for row in rows:
        low, high = row["ratio_range"]
        print(
            f"{row['way']:16}{1000 * row['seconds']:9.1f} ms{row['ratio']:7.2f}   {low:.2f} to {high:.2f}"
            f"   operations {row['operations_ratio']:.2f}{row['MiB']:9.2f} MiB of parameters"
        )


if __name__ == "__main__":
    main()
