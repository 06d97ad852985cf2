"""Time the stages of the quickstart, and what comes before their first steps, cold and from the caches.

    python -m benchmarks.quickstart [--config.KEY=VALUE ...]

Prints one JSON line and tables: the seconds of each stage and in all, the seconds to its first step as the run itself
tells them, and those of ``import rlhf_jax`` and ``--help``. Two runs of one program, the first of which finds empty
caches (programs, and the embedded world): the second says what compiling costs. Nothing here is asserted; figures with
their date and machine go to benchmarks/README.md.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rlhf_jax.metrics import read_metrics

COLD, WARM = "nothing compiled", "from the cache"
FIRST = re.compile(r"^(\w+): first step after ([\d.]+) s \((.+)\)$", re.MULTILINE)
PART = re.compile(r"([a-z ]+) ([\d.]+)(?:, |$)")
SMALL = {"import rlhf_jax": ("-c", "import rlhf_jax"), "--help": ("-m", "rlhf_jax", "--help")}

Seconds = dict[str, float]


def stage_seconds(workdir: Path, started: float) -> Seconds:
    """Wall seconds of each stage: from the last record of the one before it to its own last record."""
    seconds: Seconds = {}
    before = started
    last = {row["stage"]: row["time"] for row in read_metrics(workdir)}
    for stage, end in last.items():
        seconds[stage], before = end - before, end
    return seconds


def first_steps(printed: str) -> dict[str, Seconds]:
    """By stage, the seconds to its first step, ``all`` and by part, from what the run printed."""
    return {
        stage: {"all": float(total), **{part: float(spent) for part, spent in PART.findall(parts)}}
        for stage, total, parts in FIRST.findall(printed)
    }


def run(workdir: Path, cache: Path, overrides: list[str]) -> tuple[Seconds, dict[str, Seconds]]:
    """One quickstart: seconds by stage, start-up being part of the first, ``total`` of the process; ``first_steps``."""
    command = [sys.executable, "-m", "rlhf_jax", "--config=configs/quickstart.py", f"--workdir={workdir}", *overrides]
    started = time.time()
    environment = {**os.environ, "RLHF_JAX_CACHE": str(cache)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return {**stage_seconds(workdir, started), "total": time.time() - started}, first_steps(done.stdout)


def both(overrides: list[str]) -> dict[str, tuple[Seconds, dict[str, Seconds]]]:
    """A run with nothing compiled, and one after it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return {name: run(root / name, root / "cache", overrides) for name in (COLD, WARM)}


def small() -> Seconds:
    """Wall seconds of what needs no run, each the best of three."""

    def seconds(words: tuple[str, ...]) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    return {name: min(seconds(words) for _ in range(3)) for name, words in SMALL.items()}


def table(head: str, rows: Mapping[str, Seconds]) -> None:
    """A line for each row, by the names of the first."""
    columns = list(next(iter(rows.values())))
    print(f"{head:34}" + "".join(f"{column:>15}" for column in columns))
    for name, row in rows.items():
        print(f"{name:34}" + "".join(f"{row[column]:15.1f}" if column in row else f"{'':15}" for column in columns))


def main() -> None:
    """Run twice and print both."""
    found, beside = both(sys.argv[1:]), small()
    stages = {name: seconds for name, (seconds, _) in found.items()}
    first = {f"{stage}, {name}": row for name, (_, told) in found.items() for stage, row in told.items()}
    print(json.dumps({"seconds": stages, "first step": first, "beside": beside}))
    table("seconds", stages)
    table("seconds to the first step", first)
    print("  ".join(f"{name} {seconds:.2f} s" for name, seconds in beside.items()))


if __name__ == "__main__":
    main()
