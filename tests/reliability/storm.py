"""Workers of a sweep that write results and nothing else, of which some are killed, and their files torn:
``python -m tests.reliability.storm FOLDER WORKERS KILLS SEED``. Prints the kills that it made, as JSON.

A worker takes a trial as the program does: claim, lease, and the lock on the trial's directory.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

from rlhf_jax.metrics import MetricWriter
from rlhf_jax.owner import Owned, Owner
from rlhf_jax.sweeps.claims import Lease, claims
from rlhf_jax.sweeps.folder import read_trials
from rlhf_jax.sweeps.queue import Queue, place_of
from tests.sweeps.standin import end

LEASE = 4.0  # seconds: a claim of which nothing can be read is waited for so long


def work(folder: pathlib.Path, seed: int) -> None:
    """Until all trials have ended."""
    rng, queue = random.Random(seed), Queue(folder, lease=LEASE)
    while True:
        taken = queue.take()
        if taken is None:
            if all(trial.ended for trial in queue.trials()):
                return
            time.sleep(0.05)
            continue
        trial, claim = taken
        with Lease(claim, LEASE), Owner(trial.folder, lambda: os._exit(75)) as owner:
            try:
                owner.take()
            except Owned:
                continue
            with MetricWriter(trial.folder, tensorboard=False) as writer:
                for _ in range(3):
                    time.sleep(rng.random() * 0.05)
                    owner.check()
                    writer.write("reward", place_of(trial).get("step", 0) + 1, {})
            with open(folder / "ended.log", "a") as file:
                file.write(f"{trial.number}\n")
            end(trial.folder, pair_accuracy=trial.number / 1000)


def start(folder: pathlib.Path, seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        work(folder, seed)
        os._exit(0)
    return pid


def at_work(folder: pathlib.Path) -> set[int]:
    """The processes that have a trial."""
    newest = [claims(trial.folder)[-1:] for trial in read_trials(folder) if not trial.ended]
    return {claim.content.get("pid", 0) for found in newest for claim in found}


def tear(folder: pathlib.Path, pid: int, kind: int) -> list[str]:
    """What a lost machine may leave of the trial that the process was at: half of its claim, of a row, or of a file
    that was to be renamed. Returns what it was; nothing where it was at none.
    """
    for trial in read_trials(folder):
        newest = claims(trial.folder)[-1]
        if not trial.ended and newest.content.get("pid") == pid:
            if kind == 0:
                newest.path.write_text(newest.path.read_text()[:40])
                return ["claim"]
            if kind == 1:
                path = trial.folder / "metrics.jsonl"
                whole = path.read_bytes() if path.exists() else b""
                path.write_bytes(whole[: whole.rfind(b"\n") + 1] + b'{"stage": "rew')
                return ["row"]
            (trial.folder / f".summary.json.elsewhere.{pid}.tmp").write_text('{"reward.pair_acc')
            return ["file"]
    return []


def main(folder: pathlib.Path, workers: int, kills: int, seed: int) -> None:
    rng, made, torn, failed = random.Random(seed), 0, [], []
    running = [start(folder, 1000 * seed + number) for number in range(workers)]
    while running:
        time.sleep(0.02 + 0.05 * rng.random())
        if made < kills and len(list(folder.glob("trials/*/claims"))) > 2 * made + 2:
            busy = at_work(folder)
            place = rng.choice([place for place, pid in enumerate(running) if pid in busy] or [0])
            os.kill(running[place], signal.SIGKILL)
            os.waitpid(running[place], 0)
            torn += tear(folder, running[place], len(torn) % 3)
            made += 1
            running[place] = start(folder, 1000 * seed + 100 + made)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                failed += [status] if status else []
    print(json.dumps({"kills": made, "torn": torn, "failed": failed}))


if __name__ == "__main__":
    assert "jax" not in sys.modules
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
