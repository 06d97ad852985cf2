"""Early warnings of over-optimisation: alarms chosen on some runs, judged on others. No JAX."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.diagnostics.monitor import Alarm, Monitor
from rlhf_jax.diagnostics.overoptimisation import turning_point

WINDOW = 5  # iterations over which gold is averaged to find where it turns
LOST = 0.1  # gold that a run must lose from its turning point to its end to count as over-optimised
PATIENCES = (2, 1)  # iterations; the first is the one that the bounds set before the run are about

# Signal -> (side, whether the bound is a multiple of the first figure, the bounds to choose from). ``gap`` is the gain
# of the proxy less the gain of the gold on the audited responses, each in deviations under the reference.
CANDIDATES: dict[str, tuple[str, bool, tuple[float, ...]]] = {
    "kl": ("above", False, (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)),
    "length": ("above", True, (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5)),
    "entropy": ("below", True, (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)),
    "spread": ("above", True, (1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)),
    "gap": ("above", False, (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """The rows that a monitor reads, the gold at each, and whether the run was over-optimised."""

    rows: list[dict[str, float]]
    gold: np.ndarray
    turn: int
    over: bool


@dataclasses.dataclass(frozen=True)
class Judgement:
    """An alarm on runs it was not chosen on. Leads in iterations: above 0 the alarm came before the turning point.

    ``warned`` of the over-optimised runs and ``false`` of the others are the shares where it went off. ``kept`` is the
    gold where it stopped over-optimised runs, beside that of their turning points and of their ends.
    """

    alarm: Alarm
    over: int
    others: int
    warned: float
    early: float
    false: float
    lead: tuple[float, float, float]  # quartiles over the warned runs
    kept: float
    best: float
    end: float


def read_run(start: dict[str, float], curves: dict[str, Any]) -> Run:
    """A run of ``records.json``."""
    gold = np.array(curves["gold"])
    gains = {
        name: (np.array(curves[f"audit.{name}"]) - start[name]) / start[f"{name}.deviation"]
        for name in ("proxy", "gold")
    }
    signals = {name: curves[name] for name in ("kl", "length", "entropy")} | {"gap": gains["proxy"] - gains["gold"]}
    if max(curves["spread"]) > 0:
        signals["spread"] = curves["spread"]
    rows = [dict(zip(signals, row, strict=True)) for row in zip(*signals.values(), strict=True)]
    turn = turning_point(gold, WINDOW)
    return Run(rows, gold, turn, smooth(gold, turn) - smooth(gold, len(gold) - 1) > LOST)


def smooth(gold: np.ndarray, place: int) -> float:
    """Gold averaged over the window around a place."""
    half = WINDOW // 2
    return float(gold[max(place - half, 0) : place + half + 1].mean())


def alarm_at(alarm: Alarm, run: Run) -> int | None:
    """The place of the row that sets an alarm off."""
    monitor = Monitor([alarm])
    for place, row in enumerate(run.rows):
        if monitor.observe(place, row):
            return place
    return None


def choose(signal: str, runs: Sequence[Run], patience: int) -> Alarm:
    """The bound whose stops leave most gold on the mean over these runs, those that it never stops included."""
    side, relative, bounds = CANDIDATES[signal]
    alarms = [Alarm(signal, side, bound, relative, patience) for bound in bounds]

    def left(alarm: Alarm) -> float:
        places = [alarm_at(alarm, run) for run in runs]
        return float(
            np.mean(
                [
                    smooth(run.gold, len(run.gold) - 1 if at is None else at)
                    for run, at in zip(runs, places, strict=True)
                ]
            )
        )

    return max(alarms, key=left)


def judge(alarm: Alarm, runs: Sequence[Run]) -> Judgement:
    """What it does on these runs."""
    over = [run for run in runs if run.over]
    places = [alarm_at(alarm, run) for run in over]
    leads = [run.turn - at for run, at in zip(over, places, strict=True) if at is not None]
    others = [alarm_at(alarm, run) is not None for run in runs if not run.over]
    stops = [len(run.gold) - 1 if at is None else at for run, at in zip(over, places, strict=True)]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if len(values) else float("nan")

    quartiles = np.percentile(leads, [25, 50, 75]) if leads else np.full(3, np.nan)
    return Judgement(
        alarm=alarm,
        over=len(over),
        others=len(others),
        warned=mean([at is not None for at in places]),
        early=mean([at is not None and at <= run.turn for run, at in zip(over, places, strict=True)]),
        false=mean(others),
        lead=(float(quartiles[0]), float(quartiles[1]), float(quartiles[2])),
        kept=mean([smooth(run.gold, at) for run, at in zip(over, stops, strict=True)]),
        best=mean([smooth(run.gold, run.turn) for run in over]),
        end=mean([smooth(run.gold, len(run.gold) - 1) for run in over]),
    )
