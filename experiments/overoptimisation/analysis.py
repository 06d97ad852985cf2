"""Tables, figure and verdict from the records of the settings. No JAX."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.findings import write_findings
from experiments.measures import interval
from experiments.overoptimisation.bounds import (
    Check,
    Fitted,
    Record,
    check_best_of_n,
    check_ppo,
    fitted,
    losses,
    warnings,
)
from experiments.overoptimisation.figure import draw
from experiments.overoptimisation.signals import PATIENCES, Judgement
from experiments.overoptimisation.sweep import ARMS, LINEAR
from rlhf_jax.diagnostics.best_of_n import best_of_n_kl_bound
from rlhf_jax.diagnostics.overoptimisation import Form
from rlhf_jax.metrics import read_summary

FITTED = ("linear", "linear_free", "bag")
FORMS: tuple[Form, ...] = ("best_of_n", "rl")
# Arms of which the first should lose more gold than the second, and those of which it should have the higher peak.
LOSES_MORE = (
    ("bag", "width_4"),
    ("width_4", "width_16"),
    ("lists_25", "lists_800"),
    ("ensemble_mean", "ensemble_worst"),
    ("ensemble_mean", "ensemble_lower"),
)
HIGHER_PEAK = (("width_8", "noise_25"), ("noise_25", "noise_40"))


def main(root: Path) -> None:
    """Write ``figures/overoptimisation.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    records = {name: json.loads((root / name / "records.json").read_text()) for name in (*LINEAR, *ARMS)}
    sizes = {name: read_summary(root / name).get("parameters", 1.0) for name in records}
    fits = {(name, form): fitted(records[name], form) for name in FITTED for form in FORMS}
    alarms = warnings(records)
    ppo, best = check_ppo(records["linear"]), check_best_of_n(records["linear"])
    lost = {name: losses(record) for name, record in records.items()}
    text = "\n\n".join(
        (
            closed_table(ppo),
            best_table(records["linear"], best),
            fit_table(fits),
            arm_table(lost, sizes),
            alarm_table(alarms),
        )
    )
    write_findings(root, "overoptimisation", draw(records, fits), text + "\n", verdict(ppo, best, fits, lost, alarms))


def _rows(header: str, rows: list[list[str]]) -> str:
    names = header.split(" | ")
    lines = [f"| {' | '.join(names)} |", "|" + " --- |" * len(names)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(found: tuple[float, float], digits: int = 3) -> str:
    return f"{found[0]:.{digits}f} ± {found[1]:.{digits}f}"


def closed_table(checks: list[Check]) -> str:
    """PPO at its end beside the closed form."""
    rows = []
    for beta in dict.fromkeys(check.at for check in checks):
        row = [f"{beta:g}"]
        for check in (one for one in checks if one.at == beta):
            mark = "" if check.inside else " *"
            row += [f"{check.exact:.3f}", _cell((check.mean, check.half)) + mark]
        rows.append(row)
    header = "β | KL, closed form | PPO | proxy, closed form | PPO | gold, closed form | PPO"
    return "`linear`: means of six seeds ± half of the 95 % interval; * the closed form is outside.\n\n" + _rows(
        header, rows
    )


def best_table(linear: Record, checks: list[Check]) -> str:
    """Best-of-n: its KL and the bound, exact gold and that of samples."""
    exact = linear["best_of_n"][0]
    sampled = {int(check.at): check for check in checks}
    rows = []
    for n, kl, gold in zip(exact["n"], exact["kl"], exact["gold"], strict=True):
        check = sampled.get(n)
        shown = "" if check is None else _cell((check.mean, check.half), 4) + ("" if check.inside else " *")
        rows.append([f"{n:,}", f"{kl:.3f}", f"{best_of_n_kl_bound(n):.3f}", f"{gold:.4f}", shown])
    return "`linear`, best-of-n.\n\n" + _rows("n | KL, nats | log n − (n − 1)/n | gold | gold, sampled", rows)


def fit_table(fits: dict[tuple[str, Form], Fitted]) -> str:
    """Coefficients and peaks with bootstrap intervals."""

    def between(ends: tuple[float, float]) -> str:
        return f"({ends[0]:.2f}, {ends[1]:.2f})"

    rows = []
    for (name, form), one in fits.items():
        fit, found = one.found.fit, one.found
        rows.append(
            [
                f"`{name}`",
                form,
                f"{fit.a:.2f} {between(found.a)}",
                f"{fit.b:.2f} {between(found.b)}",
                f"{one.explained:.3f}",
                f"{fit.peak[0]:.2f} {between(found.peak_distance)}",
                f"{one.exact_peak[0]:.2f}",
                f"{fit.peak[1]:.2f} {between(found.peak_gain)}",
                f"{one.exact_peak[1]:.2f}",
            ]
        )
    header = "proxy | form | α | β | variance explained | peak d, fitted | exact | gain there, fitted | exact"
    return "Fits of gold gained over d = √KL; 95 % bootstrap intervals over seeds.\n\n" + _rows(header, rows)


def arm_table(lost: dict[str, dict[str, list[float]]], sizes: dict[str, float]) -> str:
    """What each proxy reaches and loses."""
    names = ("peak", "lost", "best_of_n.peak", "best_of_n.lost", "ppo.peak", "ppo.lost")
    rows = [
        [f"`{name}`", f"{sizes[name]:.0f}", *(_cell(interval(found[measure]), 2) for measure in names)]
        for name, found in lost.items()
    ]
    header = (
        "proxy | parameters | best policies: peak gold | lost at β = 0.012 | best-of-n: peak gold | lost at 65,536 | "
        "PPO, least β: peak gold | lost at the end"
    )
    return "Means over seeds ± half of the 95 % interval.\n\n" + _rows(header, rows)


def alarm_table(alarms: list[Judgement]) -> str:
    """Lead times of the signals on runs that their bounds were not chosen on."""

    def number(value: float, digits: int = 2) -> str:
        return "–" if np.isnan(value) else f"{value:.{digits}f}"

    rows = [
        [
            str(one.alarm),
            f"{one.over}",
            number(one.warned),
            number(one.early),
            f"{number(one.lead[1], 0)} ({number(one.lead[0], 0)} to {number(one.lead[2], 0)})",
            f"{number(one.false)} of {one.others}",
            *map(number, (one.kept, one.best, one.end)),
        ]
        for one in alarms
    ]
    header = (
        "alarm | over-optimised runs | went off | not after the turn | lead, iterations | false alarms | "
        "gold where it stops | at the turn | at the end"
    )
    return "Alarms, on seeds that their bounds were not chosen on; leads are medians (quartiles).\n\n" + _rows(
        header, rows
    )


def verdict(
    ppo: list[Check],
    best: list[Check],
    fits: dict[tuple[str, Form], Fitted],
    lost: dict[str, dict[str, list[float]]],
    alarms: list[Judgement],
) -> dict[str, Any]:
    """The bounds set before the run, one after the other."""
    inside, sampled = sum(one.inside for one in ppo), sum(one.inside for one in best)
    falls = {name: {how: min(lost[name][how]) >= 0.1 for how in ("ppo.lost", "best_of_n.lost")} for name in FITTED}
    less = {f"{one} > {other}": _difference(lost, "ppo.lost", one, other) for one, other in LOSES_MORE}
    higher = {f"{one} > {other}": _difference(lost, "peak", one, other) for one, other in HIGHER_PEAK}
    first = [
        one for one in alarms if one.alarm.patience == PATIENCES[0] and one.over
    ]  # what no run could tell is left out
    differences = (*less.values(), *higher.values())
    early = {one.alarm.signal: round(one.early, 3) for one in first}
    return {
        "1. closed forms inside PPO's intervals": {"inside": inside, "of": len(ppo), "holds": inside >= 21},
        "2. closed forms inside best-of-n's intervals": {"inside": sampled, "of": len(best), "holds": sampled >= 11},
        "3. gold falls by 0.1 at every seed": {**falls, "holds": all(all(one.values()) for one in falls.values())},
        "4. fits": {
            **{f"{name}, {form}": one.holds for (name, form), one in fits.items()},
            "holds": all(one.holds for one in fits.values()),
        },
        "5. proxies": {
            "gold lost by PPO, differences": less,
            "peak gold, differences": higher,
            "signs as said": sum(one["mean"] > 0 for one in differences),
            "holds": all(one["mean"] > 0 and one["beyond chance"] for one in differences),
        },
        "6. alarms not after the turn": {
            **early,
            "holds": all((share >= 0.8) == (signal in ("kl", "gap")) for signal, share in early.items()),
        },
    }


def _difference(lost: dict[str, dict[str, list[float]]], name: str, one: str, other: str) -> dict[str, Any]:
    """Mean difference, seed by seed, and half of its interval."""
    mean, half = interval(np.subtract(lost[one][name], lost[other][name]))
    return {"mean": round(mean, 4), "half": round(half, 4), "beyond chance": bool(abs(mean) > half)}
