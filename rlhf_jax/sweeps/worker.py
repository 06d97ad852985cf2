"""One worker: take a trial, run it to its end, take the next, until all trials have ended.

Any number of workers, on any hosts that see the folder, know of each other by nothing but what lies there. All trials
of a worker run in its one process.
"""

import contextlib
import json
import random
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rlhf_jax.build import Shared
from rlhf_jax.errors import INTERRUPTED, USER_ERROR, UserError
from rlhf_jax.flags import Launch
from rlhf_jax.metrics import read_json, write_status
from rlhf_jax.parallel import Stop, heeding_others
from rlhf_jax.run import PRUNED, go_on, where
from rlhf_jax.sweeps import claims
from rlhf_jax.sweeps.folder import ENDED, SPACE, Trial, Value, make_trial, read_sweep, read_trials
from rlhf_jax.sweeps.results import Point, counted, points_of, write_results
from rlhf_jax.sweeps.sampling import suggest, worth_pruning
from rlhf_jax.sweeps.space import Base, grid, make_space, named
from rlhf_jax.sweeps.spec import SweepSpec

POLL = 1.0  # seconds between two looks at what the others do
DEATHS = 5  # of workers at the same place of a trial, after which it counts as failed
FEW = 4  # ended trials, before which no share of failures is taken for the sweep's own fault


class Worker:
    """What one process does for a sweep."""

    def __init__(self, folder: Path, lease: float) -> None:
        self._folder, self._lease = folder, lease
        self._spec = read_sweep(folder)
        file = folder / SPACE
        self._space = make_space(file if self._spec.file else None, self._spec.keys)
        self._listed = grid(self._space) if self._spec.sampler == "grid" else []
        self._base = Base(json.dumps(self._spec.config))
        self._watcher = claims.Watcher(lease)
        self._shared = Shared()
        self._last: int | None = None  # the point that was run last
        self._problem = ""

    def work(self) -> None:
        """Run trials until none is left.

        Raises:
          UserError: the objective cannot be read, or too many trials have failed.
          SystemExit: with INTERRUPTED, if a signal asked for an end.
        """
        with heeding_others(lambda *_: None) as stop:
            while not stop():
                trials = counted(read_trials(self._folder), self._spec.objectives)
                _check_failures(self._spec, trials)
                taken = self._take(trials)
                if taken is not None:
                    self._run(*taken)
                    continue
                if all(trial.ended for trial in trials):
                    return
                self._wait(stop)
            raise SystemExit(INTERRUPTED)

    def _wait(self, stop: Stop) -> None:
        """Others are at the last trials: stay to go on with them, should a worker die."""
        end = time.monotonic() + POLL * (1 + random.random())  # noqa: S311
        while time.monotonic() < end and not stop.reason:
            time.sleep(0.1)

    # --------------------------------------------------------------------- which trial

    def _take(self, trials: Sequence[Trial]) -> tuple[Trial, Path] | None:
        """A trial and this worker's claim of it: one that nobody goes on with, else a new one; None: nothing to do."""
        for trial in trials:
            if not trial.ended and (claim := self._take_over(trial)):
                return trial, claim
        points = {point.number: point for point in points_of(trials)}
        number = next_number(self._spec, points, self._last)
        if number is None:
            return None
        self._last = number // len(self._spec.seeds)
        known = points.get(self._last)
        parameters = known.parameters if known else self._parameters(self._last, trials)
        claim = make_trial(self._folder, self._spec, number, parameters)
        trials = counted(read_trials(self._folder), self._spec.objectives)
        if claim is None:  # another was faster; by what is known now, the next point may be another
            return self._take(trials)
        return next(one for one in trials if one.number == number), claim

    def _take_over(self, trial: Trial) -> Path | None:
        attempts = claims.claims(trial.folder)
        if attempts and not self._watcher.free(attempts[-1]):
            return None
        number = attempts[-1].number + 1 if attempts else 1
        return claims.take(trial.folder, number, where(trial.folder))

    def _parameters(self, point: int, trials: Sequence[Trial]) -> dict[str, Value]:
        if self._listed:
            return self._listed[point]
        return suggest(self._spec, self._space, point, trials)

    # --------------------------------------------------------------------- a trial

    def _run(self, trial: Trial, claim: Path) -> None:
        name = f"trial {trial.number}"
        with claims.Lease(claim, self._lease):
            if _state(trial) in ENDED:  # by its owner, while the claim was taken over
                return
            goes_on = " (goes on)" if int(claim.stem) > 1 else ""
            _say(f"{name}: {' '.join(named(trial.parameters))} seed {trial.seed}{goes_on}")
            start = time.monotonic()
            if reason := _doomed(trial):
                write_status(trial.folder, "failed", **where(trial.folder), reason=reason, exit_code=1)
                asked = ""
            else:
                asked = self._go_on(trial)
            trials = counted(read_trials(self._folder), self._spec.objectives)
            write_results(self._folder, self._spec, trials)
            after = next((one for one in trials if one.number == trial.number), trial)
            _say(f"{name}: {self._told(after)} ({time.monotonic() - start:.0f} s)")
        if self._problem:
            raise UserError(self._problem)
        if asked:
            raise SystemExit(INTERRUPTED)

    def _go_on(self, trial: Trial) -> str:
        """Run the trial; returns the signal that asked for an end, if one did."""
        with (
            open(trial.folder / "output.log", "a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                config = self._base.at(trial.parameters, trial.seed)
                launch = Launch(config, str(trial.folder), False, named(trial.parameters))
                reason = go_on(launch, partial(self._judge, trial), self._shared)
                return reason if reason != PRUNED else ""
            except SystemExit:
                return "a signal"
            except Exception as error:
                traceback.print_exc()
                code = USER_ERROR if isinstance(error, UserError) else 1
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                write_status(trial.folder, "failed", **where(trial.folder), reason=_line(reason), exit_code=code)
                return ""

    def _judge(self, trial: Trial, stage: str, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether the trial, which has just been evaluated, is to end early."""
        objective, pruner = self._spec.objectives[0], self._spec.pruner
        own_stage, _, name = objective.metric.partition(".")
        if pruner == "none" or stage != own_stage:
            return False
        if name not in metrics:  # a trial that got so far goes on to its end
            known = ", ".join(sorted(metrics))
            self._problem = f"--pruner: {objective.metric} is not measured during the stage, but {known}; use none"
            return False
        others = [
            (one.curve(objective.metric), one.summary.get(objective.metric))
            for one in read_trials(self._folder)
            if one.number != trial.number
        ]
        return worth_pruning(pruner, objective, others, trial.curve(objective.metric))

    def _told(self, trial: Trial) -> str:
        if trial.state != "done":
            return f"{trial.state}, {trial.reason}" if trial.reason else trial.state
        return ", ".join(f"{one.metric} {trial.summary[one.metric]:.4g}" for one in self._spec.objectives)


def next_number(spec: SweepSpec, points: Mapping[int, Point], last: int | None) -> int | None:
    """The trial to be made next, None where all are made: of the point that this worker ran ``last``, whose programs it
    has compiled, else of one that nobody has begun, else any. A point of which a trial was pruned gets no more.
    """
    made = {trial.number for point in points.values() for trial in point.trials}
    seeds = len(spec.seeds)
    left = [n for n in range(spec.trials) if n not in made]
    left = [n for n in left if n // seeds not in points or not points[n // seeds].pruned]
    return min(left, key=lambda n: (n // seeds != last, n // seeds in points, n), default=None)


def _check_failures(spec: SweepSpec, trials: Sequence[Trial]) -> None:
    """Raise UserError where so many trials have failed that the sweep itself must be wrong."""
    ended = [trial for trial in trials if trial.ended]
    failed = [trial for trial in ended if trial.state == "failed"]
    if len(ended) >= min(FEW, spec.trials) and len(failed) > spec.failures * len(ended):
        first = failed[0]
        raise UserError(
            f"sweep: {len(failed)} of {len(ended)} ended trials have failed, more than --failures={spec.failures:g} "
            f"allows; trial {first.number}: {first.reason} (remove the folder of a trial to have it run anew)"
        )


def _state(trial: Trial) -> str:
    return str(read_json(trial.folder / "STATUS.json").get("state", ""))


def _doomed(trial: Trial) -> str:
    """Why a trial should not be tried again, "" if it should."""
    *before, own = claims.claims(trial.folder)
    died = [one for one in before[-DEATHS:] if not one.content.get("ended")]
    if len(died) < DEATHS or any(one.content.get("at") != own.content.get("at") for one in died):
        return ""
    at = own.content.get("at") or {}
    place = f"after {at['stage']} step {at['step']}" if at else "before its first step"
    return f"{DEATHS} workers died at the same place, {place}"


def _line(text: str) -> str:
    """The first line of an error, not without end."""
    return text.strip().split("\n", 1)[0][:300]


def _say(text: str) -> None:
    print(text, flush=True)
