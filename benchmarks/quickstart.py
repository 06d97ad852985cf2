"""Time the stages of the quickstart, once with nothing compiled and once from the compilation cache.

    python -m benchmarks.quickstart [--config.KEY=VALUE ...]

Prints one JSON line with the seconds of each stage and in all, and a table. Two runs of one program: the second says
what compiling costs. Nothing here is asserted; figures with their date and machine go to benchmarks/README.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlhf_jax.metrics import read_metrics


def stage_seconds(workdir: Path, started: float) -> dict[str, float]:
    """Wall seconds of each stage: from the last record of the one before it to its own last record."""
    seconds: dict[str, float] = {}
    before = started
    last = {row["stage"]: row["time"] for row in read_metrics(workdir)}
    for stage, end in last.items():
        seconds[stage], before = end - before, end
    return seconds


def run(workdir: Path, cache: Path, overrides: list[str]) -> dict[str, float]:
    """One quickstart; seconds by stage, ``start_up`` being part of the first stage, and ``total`` of the process."""
    command = [sys.executable, "-m", "rlhf_jax", "--config=configs/quickstart.py", f"--workdir={workdir}", *overrides]
    started = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "RLHF_JAX_CACHE": str(cache)})
    return {**stage_seconds(workdir, started), "total": time.time() - started}


def both(overrides: list[str]) -> dict[str, dict[str, float]]:
    """A run with nothing compiled, and one after it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return {name: run(root / name, root / "cache", overrides) for name in ("nothing compiled", "from the cache")}


def main() -> None:
    """Run twice and print both."""
    results = both(sys.argv[1:])
    print(json.dumps({name: {stage: round(s, 1) for stage, s in row.items()} for name, row in results.items()}))
    stages = list(results["nothing compiled"])
    print(f"{'seconds':18}" + "".join(f"{stage:>15}" for stage in stages))
    for name, row in results.items():
        print(f"{name:18}" + "".join(f"{row[stage]:15.1f}" for stage in stages))


if __name__ == "__main__":
    main()
