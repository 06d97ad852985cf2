"""One worker: take a trial, run it to its end, take the next, until all trials have ended.

Any number of workers, on any hosts that see the folder, know of each other by nothing but what lies there. All trials
of a worker run in its one process, which keeps data and compiled programs for them.
"""

import contextlib
import json
import random
import time
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rlhf_jax.build import Shared
from rlhf_jax.console import say
from rlhf_jax.errors import INTERRUPTED, BadNumbers, DiskError, UserError, exit_code
from rlhf_jax.flags import Launch
from rlhf_jax.metrics import read_status, write_status
from rlhf_jax.owner import Owned
from rlhf_jax.parallel import Stop, heeding_others
from rlhf_jax.run import go_on
from rlhf_jax.sweeps.claims import Lease
from rlhf_jax.sweeps.folder import ENDED, Trial, read_trials
from rlhf_jax.sweeps.queue import Queue, doomed, place_of
from rlhf_jax.sweeps.results import counted, write_results
from rlhf_jax.sweeps.sampling import worth_pruning
from rlhf_jax.sweeps.space import Base, named

POLL = 1.0  # seconds between two looks at what the others do


class Worker:
    """What one process does for a sweep."""

    def __init__(self, folder: Path, lease: float) -> None:
        self._queue, self._lease = Queue(folder, lease), lease
        self._spec = self._queue.spec
        self._base = Base(json.dumps(self._spec.config))
        self._shared = Shared()
        self._problem = ""

    def work(self) -> None:
        """Run trials until none is left.

        Raises:
          UserError: the objective cannot be read, or too many trials have failed.
          SystemExit: with INTERRUPTED, if a signal asked for an end.
        """
        with heeding_others(lambda *_: None) as stop:
            while not stop():
                taken = self._queue.take()
                if taken is not None:
                    self._run(*taken)
                elif all(trial.ended for trial in self._queue.trials()):
                    return
                else:
                    self._wait(stop)
            raise SystemExit(INTERRUPTED)

    def _wait(self, stop: Stop) -> None:
        """Others are at the last trials: stay to go on with them, should a worker die."""
        end = time.monotonic() + POLL * (1 + random.random())  # noqa: S311 nothing is secret in it
        while time.monotonic() < end and not stop.reason:
            time.sleep(0.1)

    def _run(self, trial: Trial, claim: Path) -> None:
        name, start, asked = f"trial {trial.number}", time.monotonic(), False
        with Lease(claim, self._lease):
            if read_status(trial.folder) in ENDED:  # by its owner, while the claim was taken over
                return
            goes_on = " (goes on)" if int(claim.stem) > 1 else ""
            say(f"{name}: {' '.join(named(trial.parameters))} seed {trial.seed}{goes_on}")
            if reason := doomed(trial):
                _fail(trial, reason, 1)
            else:
                asked = self._go_on(trial)
        trials = counted(read_trials(self._queue.folder), self._spec.objectives)
        write_results(self._queue.folder, self._spec, trials)
        after = next((one for one in trials if one.number == trial.number), trial)
        say(f"{name}: {self._told(after)} ({time.monotonic() - start:.0f} s)")
        if self._problem:
            raise UserError(self._problem)
        if asked:
            raise SystemExit(INTERRUPTED)

    def _go_on(self, trial: Trial) -> bool:
        """Run the trial; whether a signal has asked for an end."""
        with (
            open(trial.folder / "output.log", "a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                config = self._base.at(trial.parameters, trial.seed)
                launch = Launch(config, str(trial.folder), False, named(trial.parameters))
                return go_on(launch, partial(self._judge, trial), self._shared)
            except SystemExit:
                return True
            except DiskError:  # no fault of the trial's, which goes on when there is room
                raise
            except Owned as error:  # by somebody who started it as a run; it is waited for like any other's
                print(error)
                time.sleep(POLL)
            except (UserError, BadNumbers) as error:
                _fail(trial, str(error), exit_code(error))
            except Exception as error:
                traceback.print_exc()
                _fail(trial, f"{type(error).__name__}: {error}", 1)
        return False

    def _judge(self, trial: Trial, stage: str, metrics: Mapping[str, float]) -> bool:
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
            for one in read_trials(self._queue.folder)
            if one.number != trial.number
        ]
        return worth_pruning(pruner, objective, others, trial.curve(objective.metric))

    def _told(self, trial: Trial) -> str:
        if trial.state != "done":
            return f"{trial.state}, {trial.reason}" if trial.reason else trial.state
        return ", ".join(f"{one.metric} {trial.summary[one.metric]:.4g}" for one in self._spec.objectives)


def _fail(trial: Trial, reason: str, code: int) -> None:
    """Write down that a trial has failed, and why: the first line of the reason, not without end."""
    line = reason.strip().split("\n", 1)[0][:300]
    write_status(trial.folder, "failed", **place_of(trial), reason=line, exit_code=code)
