"""Every stage in turn, and one table of what was aimed at: what ``make bench`` runs.

    python -m benchmarks.run [STAGE ...] [--model=small] [--threads=1] [--rounds=0]

Stages: sft, reward_pairs, reward_lists, dpo, sampling, ppo, quickstart; without any, all of them. ``--rounds=0`` takes
few rounds of what takes minutes. The tables go to build/bench.md and all figures to build/bench.json, after each stage.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import dpo, ppo, quickstart, reward_lists, reward_pairs, sampling, sft
from benchmarks.harness import results
from benchmarks.harness.driver import ROOT
from benchmarks.harness.stage import THEIR_PYTHON, Stage, arguments, run

# Of each stage its parts, and rounds of which the whole takes some forty minutes where nothing else runs.
STAGES: dict[str, tuple[Sequence[Stage], int]] = {
    "sft": ([sft.STAGE], 3),
    "reward_pairs": ([reward_pairs.STAGE], 3),
    "reward_lists": ([reward_lists.STAGE], 2),
    "dpo": ([dpo.STAGE], 3),
    "sampling": ([one for one in sampling.STAGES if one.targets], 2),
    "ppo": (ppo.STAGES, 1),
    "quickstart": ((), 1),
}


def chosen(words: Sequence[str] | None = None) -> tuple[list[str], argparse.Namespace]:
    """(names of stages, what every stage takes). Raises SystemExit for a name that is none."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("stages", nargs="*")
    named, rest = parser.parse_known_args(words)
    args = arguments(__doc__, rest)
    for name in named.stages:
        if name not in STAGES:
            raise SystemExit(f"{name}: no stage; there are {', '.join(STAGES)}")
    return named.stages or list(STAGES), args


def machine() -> dict[str, Any]:
    """What figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    ours = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    asked = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in %r}))"
    command = [str(THEIR_PYTHON), "-c", asked % (("torch", "transformers", "trl"),)]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "commit": commit.stdout.strip() or "unknown",
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": {"python": platform.python_version(), **ours, **theirs},
    }


def page(about: dict[str, Any], wholes: Sequence[dict[str, Any]], seconds: dict[str, dict[str, float]]) -> str:
    """All tables, the one of targets first, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    load = ", ".join(f"{value:.1f}" for value in about["load"])
    parts = [
        f"{about['date']}, commit {about['commit']}; {about['processor']}, {about['cores']} cores, load {load} at the "
        f"start; {versions}",
        results.targets(wholes),
        *(results.text(whole, with_targets=False) for whole in wholes),
    ]
    if seconds:
        stages = list(next(iter(seconds.values())))
        rows = [
            f"| {name} | " + " | ".join(f"{row[stage]:.1f}" for stage in stages) + " |" for name, row in seconds.items()
        ]
        head = f"| quickstart, wall seconds | {' | '.join(stages)} |"
        parts.append("\n".join([head, "|" + " --- |" * (len(stages) + 1), *rows]))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run what the command line names."""
    names, args = chosen()
    about, build = machine(), ROOT / "build"
    build.mkdir(exist_ok=True)
    wholes: list[dict[str, Any]] = []
    seconds: dict[str, dict[str, float]] = {}
    for name in names:
        stages, rounds = STAGES[name]
        few = argparse.Namespace(**{**vars(args), "rounds": args.rounds or rounds})
        for stage in stages:
            wholes.append(run(stage, few))
            print(results.text(wholes[-1], with_targets=False), flush=True)
            write(build, about, wholes, seconds)
        if name == "quickstart":
            seconds = {name: whole for name, (whole, _) in quickstart.both([]).items()}
            write(build, about, wholes, seconds)
    print(results.targets(wholes))


def write(build: Path, about: dict[str, Any], wholes: list[dict[str, Any]], seconds: dict[str, Any]) -> None:
    """What there is so far."""
    (build / "bench.md").write_text(page(about, wholes, seconds))
    (build / "bench.json").write_text(json.dumps({"machine": about, "stages": wholes, "quickstart": seconds}))


if __name__ == "__main__":
    main()
