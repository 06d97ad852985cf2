"""Which trial comes next, to one worker and to many of which some are killed."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.sweeps import claims
from rlhf_jax.sweeps.folder import read_trials
from rlhf_jax.sweeps.queue import DEATHS, Queue, doomed, next_number
from rlhf_jax.sweeps.results import points_of
from tests.sweeps.standin import GAMMA, begin, end, made

ROOT = pathlib.Path(__file__).resolve().parents[2]


def give_up(claim: pathlib.Path) -> None:
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "ended": 1.0}))


def test_a_worker_alone_goes_through_all_trials_in_order(tmp_path: pathlib.Path) -> None:
    begin(tmp_path)
    queue = Queue(tmp_path, lease=60)
    seen = []
    while taken := queue.take():
        trial, claim = taken
        assert claim == trial.folder / "claims" / "1.json"
        seen.append((trial.number, trial.point, trial.seed, trial.parameters[GAMMA]))
        end(trial.folder, pair_accuracy=0.5)
    assert seen == [(0, 0, 0, 0.5), (1, 0, 1, 0.5), (2, 1, 0, 1.0), (3, 1, 1, 1.0), (4, 2, 0, 2.0), (5, 2, 1, 2.0)]


def test_what_lives_is_left_alone_and_what_was_given_up_is_gone_on_with_first(tmp_path: pathlib.Path) -> None:
    begin(tmp_path)
    mine, other = Queue(tmp_path, lease=60), Queue(tmp_path, lease=60)
    first = mine.take()
    assert first is not None
    second = other.take()
    assert second is not None
    # The other begins a point of its own: programs of the first are compiled elsewhere.
    assert (first[0].number, second[0].number) == (0, 2)
    (first[0].folder / "metrics.jsonl").write_text('{"stage": "reward", "step": 7, "time": 0, "metrics": {}}\n')
    give_up(first[1])
    again = other.take()
    assert again is not None
    assert (again[0].number, again[1].name) == (0, "2.json")
    assert json.loads(again[1].read_text())["at"] == {"stage": "reward", "step": 7}


def test_a_point_that_was_pruned_gets_no_more_seeds(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path)
    made(tmp_path, spec, 0, state="pruned")
    made(tmp_path, spec, 2, state="failed", reason="nan")
    points = {point.number: point for point in points_of(read_trials(tmp_path))}
    assert next_number(spec, points, last=0) == 4
    assert next_number(spec, points, last=1) == 3
    made(tmp_path, spec, 3, pair_accuracy=0.5)
    made(tmp_path, spec, 4, pair_accuracy=0.5)
    made(tmp_path, spec, 5, pair_accuracy=0.5)
    points = {point.number: point for point in points_of(read_trials(tmp_path))}
    assert next_number(spec, points, last=0) is None


def test_a_sweep_gives_up_where_more_than_a_share_has_failed(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path)
    for number in range(3):
        made(tmp_path, spec, number, state="failed", reason=f"reason {number}")
    queue = Queue(tmp_path, lease=60)
    assert len(queue.trials()) == 3  # too few to tell
    made(tmp_path, spec, 3, pair_accuracy=0.5)
    with pytest.raises(
        UserError, match=r"3 of 4 ended trials have failed, more than --failures=0.5 allows; trial 0: reason 0"
    ):
        queue.take()
    begin(tmp_path, failures=0.75)
    assert Queue(tmp_path, lease=60).take() is not None


def test_a_trial_that_kills_its_workers_is_not_tried_for_ever(tmp_path: pathlib.Path) -> None:
    spec = begin(tmp_path)
    folder = made(tmp_path, spec, 0, state="running")
    (trial,) = read_trials(tmp_path)
    for number in range(2, DEATHS + 2):
        assert doomed(trial) == ""
        claims.take(folder, number, {})
    assert doomed(trial) == f"{DEATHS} workers died at the same place, before its first step"
    # One that got further in between is.
    claim = folder / "claims" / "4.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "at": {"stage": "reward", "step": 2}}))
    assert doomed(trial) == ""


STORM = """
import json, os, pathlib, random, signal, sys, time
from rlhf_jax.sweeps.claims import Lease
from rlhf_jax.sweeps.queue import Queue
from tests.sweeps.standin import end
assert "jax" not in sys.modules
folder = pathlib.Path(sys.argv[1])

def work(seed):
    rng, queue = random.Random(seed), Queue(folder, lease=60)
    while True:
        taken = queue.take()
        if taken is None:
            if all(trial.ended for trial in queue.trials()):
                return
            time.sleep(0.05)
            continue
        trial, claim = taken
        with Lease(claim, 60):
            for step in range(1, 4):
                time.sleep(rng.random() * 0.05)
                with open(trial.folder / "metrics.jsonl", "a") as file:
                    file.write('{"stage": "reward", "step": %d, "time": 0, "metrics": {}}\\n' % step)
            with open(folder / "ended.log", "a") as file:
                file.write(f"{trial.number}\\n")
            end(trial.folder, pair_accuracy=trial.number / 100)

def start(seed):
    pid = os.fork()
    if pid == 0:
        work(seed)
        os._exit(0)
    return pid

rng, kills, failed = random.Random(0), 0, []
workers = [start(seed) for seed in range(4)]
while workers:
    time.sleep(0.02 + 0.05 * rng.random())
    if kills < 12 and len(list(folder.glob("trials/*/claims"))) > 3 * kills + 2:
        place = rng.randrange(len(workers))
        os.kill(workers[place], signal.SIGKILL)
        os.waitpid(workers[place], 0)
        kills += 1
        workers[place] = start(10 + kills)
    for pid in list(workers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            workers.remove(pid)
            failed += [status] if status else []
print(json.dumps({"kills": kills, "failed": failed}))
"""


@pytest.mark.slow
def test_no_trial_is_lost_or_run_twice_by_workers_of_which_many_are_killed(tmp_path: pathlib.Path) -> None:
    """Four workers, 50 trials, twelve kills at any moment; the dead are replaced."""
    gammas = ",".join(str(place / 100) for place in range(1, 26))
    begin(tmp_path, keys=((GAMMA, gammas),), points=25)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", STORM, str(tmp_path)]
    found = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {"kills": 12, "failed": []}
    trials = read_trials(tmp_path)
    assert [trial.number for trial in trials] == list(range(50))
    assert [trial.state for trial in trials] == ["done"] * 50
    assert [trial.parameters[GAMMA] for trial in trials] == [(number // 2 + 1) / 100 for number in range(50)]
    # Who is killed between the end of a trial and its record leaves it to be closed again: at most one a kill.
    ended = (tmp_path / "ended.log").read_text().split()
    assert 50 <= len(ended) <= 62
    attempts = [len(claims.claims(trial.folder)) for trial in trials]
    assert 50 < sum(attempts) <= 62
