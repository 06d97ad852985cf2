"""What was measured against what was set before the run: closed forms, fits, proxies, warnings. No JAX."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.measures import interval
from experiments.overoptimisation import exact, signals
from experiments.overoptimisation.sweep import CHECK_BETAS, SAMPLED_BEST_OF
from rlhf_jax.diagnostics.overoptimisation import FitInterval, Form, bootstrap_fit

Record = dict[str, Any]  # of one arm, as ``experiment.judge`` and PPO leave it
NEAREST = 0.25  # nats: below, noise divided by the distance is all that a fit would see


@dataclasses.dataclass(frozen=True)
class Check:
    """A closed form, and the mean of the seeds with half of its 95 % interval."""

    name: str
    at: float
    exact: float
    mean: float
    half: float

    @property
    def inside(self) -> bool:
        return abs(self.mean - self.exact) <= self.half


def check_ppo(linear: Record) -> list[Check]:
    """KL, proxy and gold of the policies at the end, at every price."""
    wanted = exact.linear_optimum(np.array(CHECK_BETAS))
    found = []
    for place, beta in enumerate(CHECK_BETAS):
        ends = [run["end"] for run in linear["ppo"] if run["beta"] == beta]
        for name in ("kl", "proxy", "gold"):
            found.append(Check(name, beta, float(wanted[name][place]), *interval([end[name] for end in ends])))
    return found


def check_best_of_n(linear: Record) -> list[Check]:
    """Gold of best-of-n from the samples of each seed."""
    wanted = exact.linear_best_of_n(SAMPLED_BEST_OF)["gold"]
    by_seed = np.array([one["gold"] for one in linear["sampled"]])
    return [
        Check("gold", n, float(wanted[place]), *interval(by_seed[:, place])) for place, n in enumerate(SAMPLED_BEST_OF)
    ]


def points(record: Record, form: Form) -> tuple[Float[np.ndarray, "S N"], Float[np.ndarray, "S N"]]:
    """(distance, gain in gold) of each seed: sampled best-of-n, or every iteration of all its runs of PPO.

    Points nearer than ``NEAREST`` have distance 0, which a fit leaves out.
    """
    distances, gains = [], []
    for place, start in enumerate(record["start"]):
        if form == "best_of_n":
            kl = np.array(record["best_of_n"][place]["kl"])[: len(SAMPLED_BEST_OF)]
            gold = np.array(record["sampled"][place]["gold"])
        else:
            runs = runs_of(record)[place]
            kl, gold = (np.concatenate([run["curves"][name] for run in runs]) for name in ("kl", "gold"))
        distances.append(np.sqrt(np.where(kl > NEAREST, kl, 0.0)))
        gains.append(gold - start["gold"])
    return np.array(distances), np.array(gains)


def runs_of(record: Record) -> list[list[dict[str, Any]]]:
    """The runs of PPO of each seed."""
    seeds = sorted({run["seed"] for run in record["ppo"]})
    return [[run for run in record["ppo"] if run["seed"] == seed] for seed in seeds]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fit, the share of the variance of gold that it explains, and where the exact curve has its peak."""

    found: FitInterval
    explained: float
    exact_peak: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether it explains 90 %, and its peak is within 20 % of the exact distance."""
        near = abs(self.found.fit.peak[0] / self.exact_peak[0] - 1.0) <= 0.2
        return self.explained >= 0.9 and bool(near)


def fitted(record: Record, form: Form) -> Fitted:
    """The fit to all seeds."""
    distance, gain = points(record, form)
    found = bootstrap_fit(distance, gain, form, seed=0)
    held = distance > 0
    missed = gain[held] - found.fit(distance[held])
    curve = record["best_of_n" if form == "best_of_n" else "optimum"]
    peaks = [_peak(one, start["gold"]) for one, start in zip(curve, record["start"], strict=True)]
    return Fitted(
        found,
        1.0 - float(missed.var() / gain[held].var()),
        tuple(np.mean(peaks, axis=0)),  # type: ignore[arg-type]
    )


def _peak(curve: dict[str, list[float]], start: float) -> tuple[float, float]:
    place = int(np.argmax(curve["gold"]))
    return float(np.sqrt(max(curve["kl"][place], 0.0))), curve["gold"][place] - start


def losses(record: Record) -> dict[str, list[float]]:
    """By seed: the highest gold of the best policies, and what is lost from it at the smallest price; the same of
    best-of-n and its largest n; and of PPO, from where its gold turned to its end, at the smallest price.
    """
    found: dict[str, list[float]] = {}
    for place, own in enumerate(runs_of(record)):
        policies, winners = record["optimum"][place]["gold"], record["best_of_n"][place]["gold"]
        least = min(own, key=lambda run: run["beta"])
        gold = np.array(least["curves"]["gold"])
        turn = signals.read_run(record["start"][place], least["curves"]).turn
        peak, end = (signals.smooth(gold, at) for at in (turn, len(gold) - 1))
        betas = np.array(record["optimum"][place]["beta"])
        row = {
            "peak": max(policies),
            "lost": max(policies) - policies[int(np.argmin(betas))],
            "best_of_n.peak": max(winners),
            "best_of_n.lost": max(winners) - winners[-1],
            "ppo.peak": peak,
            "ppo.lost": peak - end,
        }
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


def warnings(records: dict[str, Record]) -> list[signals.Judgement]:
    """Each signal's alarm, its bound chosen on every third seed and judged on the others."""
    chosen_on: list[signals.Run] = []
    judged_on: list[signals.Run] = []
    for record in records.values():
        for place, own in enumerate(runs_of(record)):
            read = [signals.read_run(record["start"][place], run["curves"]) for run in own]
            (chosen_on if place % 3 == 0 else judged_on).extend(read)

    def having(runs: Sequence[signals.Run], signal: str) -> list[signals.Run]:
        return [run for run in runs if signal in run.rows[0]]

    return [
        signals.judge(signals.choose(signal, having(chosen_on, signal), patience), having(judged_on, signal))
        for patience in signals.PATIENCES
        for signal in signals.CANDIDATES
    ]
