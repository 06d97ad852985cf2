"""A stage of the benchmark: its sides on the same weights and data, in turn, and what came of it."""

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import results
from benchmarks.harness.driver import ROOT, Lost, Turn, Worker, play
from benchmarks.harness.results import AGAIN, OURS
from benchmarks.harness.shapes import MODELS

THEIR_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
LAST_WITH_PPO = ROOT / ".venv-bench" / "trl-ppo"
LIMITS = ("gemm", "bandwidth")


@dataclasses.dataclass(frozen=True)
class Side:
    """An alternative: a module of ``benchmarks.sides``, and what the table says of its settings."""

    name: str
    module: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    path: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """How many times as fast as the fastest of these sides ours is to be."""

    name: str
    against: tuple[str, ...]
    ratio: float


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is measured. ``case`` makes what all sides are told; rates are of ``unit`` a second.

    ``flops`` is the arithmetic that a unit asks for, ``bytes`` the memory that a round has to read, 0 of neither.
    ``prepare`` may make more in the folder before the sides start, and add to the case. ``programs`` is how many rounds
    ours has before those that count, where it compiles a program for each of a few sizes that it meets.
    """

    name: str
    unit: str
    case: Callable[[str], dict[str, Any]]
    sides: Callable[[str], Sequence[Side]]
    targets: tuple[Target, ...]
    flops: Callable[[dict[str, Any], Path], float] = lambda case, folder: 0.0
    bytes: Callable[[dict[str, Any]], float] = lambda case: 0.0
    prepare: Callable[[dict[str, Any], Path], dict[str, Any]] = lambda case, folder: {}
    rounds: int = 5
    programs: int = 1


def arguments(description: str | None, words: Sequence[str] | None = None) -> argparse.Namespace:
    """What every script of a stage takes; raises SystemExit for anything else."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), default="small")
    parser.add_argument("--rounds", type=int, default=0, help="rounds after the warm-up; 0: as many as the stage has")
    parser.add_argument("--threads", type=int, default=1, help="cores of each side, and threads of its pools")
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns")
    parser.add_argument("--only", default="", help="names of sides, with commas between; empty: all")
    parser.add_argument("--quick", action="store_true", help="ours alone, without a placebo: while working on it")
    return parser.parse_args(words)


def main(stages: Sequence[Stage], description: str | None) -> None:
    """Run the stages of a script and print what they found."""
    args = arguments(description)
    for stage in stages:
        print(results.text(run(stage, args)))


def run(stage: Stage, args: argparse.Namespace) -> dict[str, Any]:
    """All rounds of a stage; JSON goes to standard output as one line.

    Raises:
      SystemExit: the environment of the alternatives is not there.
    """
    if not args.quick and not THEIR_PYTHON.exists():
        raise SystemExit(f"{THEIR_PYTHON}: missing; make .venv-bench/.done installs PyTorch and TRL")
    sides = () if args.quick else [side for side in stage.sides(args.model) if _wanted(side, args.only)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        case = {"model": args.model, "threads": args.threads, "steps": 1, "settings": {}, **stage.case(args.model)}
        case["folder"] = str(folder)
        make_material(folder, case)
        case |= stage.prepare(case, folder)
        with workers(case, sides, folder) as started:
            told = {name: worker.ready() for name, worker in started.items() if name != OURS}
            checks = {name: worker.ask("check") for name, worker in started.items() if case.get("check_first")}
            turns = turns_of(started, placebo=not args.quick)
            first = play([turn for turn in turns if turn.what == "round" and turn.name != AGAIN], 1, args.seed)
            for _ in range(stage.programs - 1):
                started[OURS].ask("round")
            found = play(turns, args.rounds or stage.rounds, args.seed)
            if case.get("check_last"):
                checks = {name: worker.ask("check") for name, worker in started.items() if name != OURS}
        about = {"stage": stage.name, "unit": stage.unit, "case": case, "checks": checks, "started": told}
        about |= {"flops": stage.flops(case, folder), "bytes": stage.bytes(case), "first": first}
    notes = {side.name: side.note for side in sides}
    whole = results.summary(about, found, stage.targets, notes)
    print(json.dumps(whole))
    return whole


def _wanted(side: Side, only: str) -> bool:
    return not only or side.name in only.split(",")


def make_material(folder: Path, case: Mapping[str, Any]) -> None:
    """Weights and data, by a process of their own."""
    command = [sys.executable, "-m", "benchmarks.harness.material", str(folder), json.dumps(case)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def workers(case: Mapping[str, Any], sides: Sequence[Side], folder: Path) -> Iterator[dict[str, Worker]]:
    """Ours, which is ready before the others start, and they, which may not be yet."""
    started: dict[str, Worker] = {}
    try:
        started[OURS] = Worker(sys.executable, "ours", case, folder / "ours.log")
        started[OURS].ready()
        for number, side in enumerate(sides):
            own = {**case, "settings": dict(side.settings)}
            log = folder / f"side{number}.log"
            started[side.name] = Worker(str(THEIR_PYTHON), side.module, own, log, side.path)
        yield started
    except Lost as lost:
        raise SystemExit(f"{case['stage']}: {lost}") from lost
    finally:
        for worker in started.values():
            worker.close()


def turns_of(started: Mapping[str, Worker], *, placebo: bool) -> list[Turn]:
    """A round of each side, ours twice for a placebo, and the machine's limits by both libraries."""
    turns = [Turn(name, worker) for name, worker in started.items()]
    if placebo:
        turns.append(Turn(AGAIN, started[OURS]))
    for library in (OURS, next((name for name in started if name != OURS), OURS)):
        turns += [Turn(f"{what}, {library}", started[library], what) for what in LIMITS]
    return list({turn.name: turn for turn in turns}.values())
