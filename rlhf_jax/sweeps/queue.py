"""Which trial a worker takes next. Nothing here imports JAX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.metrics import read_jsonl
from rlhf_jax.owner import is_held
from rlhf_jax.sweeps import claims
from rlhf_jax.sweeps.folder import SPACE, Trial, Value, make_trial, read_sweep, read_trials
from rlhf_jax.sweeps.results import Point, counted, points_of
from rlhf_jax.sweeps.sampling import suggest
from rlhf_jax.sweeps.space import grid, make_space
from rlhf_jax.sweeps.spec import SweepSpec

DEATHS = 5  # of workers at the same place of a trial, after which it is not tried again
FEW = 4  # ended trials, before which no share of failures is taken for the sweep's own fault


class Queue:
    """The trials of a sweep, as one worker sees them."""

    def __init__(self, folder: Path, lease: float) -> None:
        self.folder, self.spec = folder, read_sweep(folder)
        self._space = make_space(folder / SPACE if self.spec.file else None, self.spec.keys)
        self._listed = grid(self._space) if self.spec.sampler == "grid" else []
        self._watcher = claims.Watcher(lease)
        self._last: int | None = None  # the point that was run last

    def trials(self) -> list[Trial]:
        """All trials that were made.

        Raises:
          UserError: the objective cannot be read, or too many trials have failed.
        """
        trials = counted(read_trials(self.folder), self.spec.objectives)
        _check_failures(self.spec, trials)
        return trials

    def take(self) -> tuple[Trial, Path] | None:
        """A trial and this process's claim of it: one that nobody goes on with, else a new one; None: there is none.

        Raises:
          UserError: as ``trials``.
        """
        trials = self.trials()
        for trial in trials:
            if not trial.ended and (claim := self._take_over(trial)):
                self._last = trial.point
                return trial, claim
        points = {point.number: point for point in points_of(trials)}
        number = next_number(self.spec, points, self._last)
        if number is None:
            return None
        self._last = number // len(self.spec.seeds)
        known = points.get(self._last)
        parameters = known.parameters if known else self._parameters(self._last, trials)
        claim = make_trial(self.folder, self.spec, number, parameters)
        if claim is None:  # another was faster; by what is known now, the next point may be another
            return self.take()
        return next(one for one in read_trials(self.folder) if one.number == number), claim

    def _take_over(self, trial: Trial) -> Path | None:
        attempts = claims.claims(trial.folder)
        # An owner that sleeps for longer than the lease and still has the lock may wake up and go on.
        if (attempts and not self._watcher.free(attempts[-1])) or is_held(trial.folder):
            return None
        return claims.take(trial.folder, attempts[-1].number + 1 if attempts else 1, place_of(trial))

    def _parameters(self, point: int, trials: Sequence[Trial]) -> dict[str, Value]:
        return self._listed[point] if self._listed else suggest(self.spec, self._space, point, trials)


def next_number(spec: SweepSpec, points: Mapping[int, Point], last: int | None) -> int | None:
    """The trial to be made next, None where all are made: of the point that this worker ran ``last``, whose programs it
    has compiled, else of one that nobody has begun, else any. A point of which a trial was pruned gets no more.
    """
    made = {trial.number for point in points.values() for trial in point.trials}
    seeds = len(spec.seeds)
    left = [n for n in range(spec.trials) if n not in made]
    left = [n for n in left if n // seeds not in points or not points[n // seeds].pruned]
    return min(left, key=lambda n: (n // seeds != last, n // seeds in points, n), default=None)


def is_over(folder: Path) -> bool:
    """Whether all trials of a sweep have been made and have ended."""
    trials = read_trials(folder)
    points = {point.number: point for point in points_of(trials)}
    return all(trial.ended for trial in trials) and next_number(read_sweep(folder), points, None) is None


def _check_failures(spec: SweepSpec, trials: Sequence[Trial]) -> None:
    """Raise UserError where so many trials have failed that the sweep itself must be wrong."""
    ended = [trial for trial in trials if trial.ended]
    failed = [trial for trial in ended if trial.state == "failed"]
    if len(ended) >= min(FEW, spec.trials) and len(failed) > spec.failures * len(ended):
        first = failed[0]
        raise UserError(
            f"sweep: {len(failed)} of {len(ended)} ended trials have failed, more than --failures={spec.failures:g} "
            f"allows; trial {first.number}: {first.reason} (one whose folder is renamed to begin with a dot runs anew)"
        )


def doomed(trial: Trial) -> str:
    """Why a trial should not be tried again, "" if it should."""
    found = claims.claims(trial.folder)
    if not found:
        return ""  # its folder is being removed
    *before, own = found
    died = [one for one in before[-DEATHS:] if not one.content.get("ended")]
    if len(died) < DEATHS or any(one.content.get("at") != own.content.get("at") for one in died):
        return ""
    at = own.content.get("at") or {}
    place = f"after {at['stage']} step {at['step']}" if at else "before its first step"
    return f"{DEATHS} workers died at the same place, {place}"


def place_of(trial: Trial) -> dict[str, Any]:
    """Stage and step of the last row of metrics; {} before the first."""
    rows = read_jsonl(trial.folder / "metrics.jsonl")
    return {"stage": rows[-1]["stage"], "step": rows[-1]["step"]} if rows else {}
