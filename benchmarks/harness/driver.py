"""Starts the sides of a benchmark, and has them do their rounds in turn."""

import collections
import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
ROOT = Path(__file__).parents[2]
MODULE = "benchmarks.harness.worker"


class Lost(RuntimeError):
    """A side has ended without an answer."""


class Worker:
    """A process that is one side; ``log`` is where all that it prints goes."""

    def __init__(
        self, python: str, side: str, case: Mapping[str, Any], log: Path, path: str = "", module: str = MODULE
    ) -> None:
        self.name, self._log = log.stem, log
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        with log.open("w") as to:
            self._process = subprocess.Popen(
                [python, "-m", module, side, json.dumps(case)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=to,
                text=True,
                cwd=ROOT,
                env=environment,
            )

    def ready(self) -> Answer:
        """Wait until it has made all that it needs. Raises Lost."""
        return self._answer()

    def ask(self, what: str) -> Answer:
        """Have it do something. Raises Lost, with the end of its log, where it cannot."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": what}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Answer:
        text = self._process.stdout.readline() if self._process.stdout else ""
        if not text:
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise Lost(f"{self.name} ended with {self._process.wait()}; the end of what it printed:\n{end}")
        return json.loads(text)

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one entry of the table does in every round."""

    name: str
    worker: Worker
    what: str = "round"


def play(turns: Sequence[Turn], rounds: int, seed: int = 0, tell: bool = True) -> dict[str, list[Answer]]:
    """Rounds in each of which every turn is taken once, in an order that ``seed`` draws: the answers by turn."""
    drawn, found = random.Random(seed), collections.defaultdict(list)
    for number in range(rounds):
        for turn in drawn.sample(turns, len(turns)):
            answer = turn.worker.ask(turn.what)
            found[turn.name].append(answer)
            if tell:
                print(f"round {number + 1} {turn.name}: {answer['cpu']:.2f} s of CPU", file=sys.stderr, flush=True)
    return dict(found)
