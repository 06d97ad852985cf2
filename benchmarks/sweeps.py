"""What the trials of one worker gain by sharing a process, and what seeds would gain by sharing a program.

    python -m benchmarks.sweeps [--steps=30] [--seeds=4] [--rounds=5] [--config.KEY=VALUE ...]

The reward stage of configs/reward_listwise.py. First trials: a run, then others in the same process, alone (each reads
its data, traces and compiles, with compiled programs on disk as always) and shared, as a sweep's worker has them; CPU
and wall seconds of each. Then seeds: updates of so many seeds, one after the other by one program and all at once by
``jax.vmap`` of it, each on its own batches; the time of one update of every seed, the median of rounds in which both
take their turn, and the ratio round by round. Prints one JSON line and a table; nothing is asserted.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.build import Shared, make_context, make_task
from rlhf_jax.build.reward import reward_learning
from rlhf_jax.build.specs import decoder_spec, reward_spec
from rlhf_jax.flags import parse
from rlhf_jax.run import go_on, use_compilation_cache

CONFIG = "--config=configs/reward_listwise.py"


def clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def trials(root: Path, words: list[str]) -> list[dict[str, Any]]:
    """A row for each run."""
    shared, other = Shared(), "--config.reward.utility.gamma=0.75"
    ways: list[tuple[str, Shared | None, list[str]]] = [
        ("first run of a process", shared, []),
        ("another seed, alone", None, ["--config.seed=1"]),
        ("another seed, shared", shared, ["--config.seed=2"]),
        ("another utility, shared", shared, [other]),
        ("its second seed, shared", shared, [other, "--config.seed=3"]),
    ]
    rows = []
    for place, (name, with_what, more) in enumerate(ways):
        launch = parse([CONFIG, f"--workdir={root / str(place)}", *words, *more])
        start = clocks()
        with contextlib.redirect_stdout(io.StringIO()):
            go_on(launch, shared=with_what)
        rows.append(
            {
                "way": name,
                **dict(zip(("cpu", "wall"), (b - a for a, b in zip(start, clocks(), strict=True)), strict=True)),
            }
        )
    return rows


def seeds(root: Path, words: list[str], count: int, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds for one update of all seeds, one after the other and at once."""
    shared = Shared()
    launches = [parse([CONFIG, f"--workdir={root}", *words, f"--config.seed={seed}"]) for seed in range(count)]
    contexts = [make_context(launch.config, Path(launch.workdir), shared) for launch in launches]
    tasks = [make_task(context, "reward") for context in contexts]
    first = contexts[0]
    spec = reward_spec(
        first.config.reward, decoder_spec(first.config.model, first.tokenizer.vocab_size), prompt_aware=True
    )
    update = reward_learning(first.config, "reward", spec, first.stage_key("reward")).update.function
    together = jax.jit(jax.vmap(partial(update, axis_name=None)))
    states = [task.state for task in tasks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def one_after_another() -> None:
        for _ in range(steps):
            for place, task in enumerate(tasks):
                states[place], out = task.step(states[place], next(task.batches))
        jax.block_until_ready((states, out))

    def at_once() -> None:
        nonlocal stacked
        for _ in range(steps):
            batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[next(task.batches) for task in tasks])
            stacked, out = together(stacked, batch)
        jax.block_until_ready((stacked, out))

    found: dict[str, list[tuple[float, float]]] = {"one after another": [], "at once": []}
    ways: dict[str, Callable[[], None]] = {"one after another": one_after_another, "at once": at_once}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = clocks()
            way()
            taken = tuple((b - a) / steps for a, b in zip(start, clocks(), strict=True))
            if turn:  # the first one compiles
                found[name].append((taken[0], taken[1]))
    ratios = {
        clock: [one[place] / all_[place] for one, all_ in zip(*found.values(), strict=True)]
        for place, clock in enumerate(("cpu", "wall"))
    }
    medians = {
        name: {c: statistics.median(t[p] for t in times) for p, c in enumerate(("cpu", "wall"))}
        for name, times in found.items()
    }
    return {"seeds": count, **medians, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="updates of a trial, and of a round")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args, words = parser.parse_known_args()
    words = [*words, f"--config.reward.steps={args.steps}", "--config.log.tensorboard=False"]
    use_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        rows = trials(Path(folder), words)
        found = seeds(Path(folder) / "seeds", words, args.seeds, args.rounds, args.steps)
    print(json.dumps({"trials": rows, **found}))
    for row in rows:
        print(f"{row['way']:24} {row['cpu']:6.1f} s CPU  {row['wall']:6.1f} s")
    for name in ("one after another", "at once"):
        print(
            f"{args.seeds} seeds {name:18} {1e3 * found[name]['cpu']:6.1f} ms CPU  {1e3 * found[name]['wall']:6.1f} ms"
        )
    for clock, ratios in found["ratios"].items():
        print(
            f"gain of at once, {clock}: {statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
