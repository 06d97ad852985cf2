"""Table, figure and verdict from the summaries of the settings. No JAX."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from experiments.choose_utility.sweep import NOISES, SEEDS, SETTINGS
from experiments.findings import write_findings
from experiments.measures import interval
from rlhf_jax.metrics import read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, TYPE_COLOURS, figure_style, panels, to_png

CRITERIA = ("accuracy", "accuracy.gold", "ece.raw", "ece", "mae", "mae.open", "mae.closed", "w1")
HIGHER_IS_BETTER = ("accuracy", "accuracy.gold")
OUTCOMES = ("gold.bon4", "gold.bon16", "gold.kl1")
FAMILIES = ("power", "log", "negative_power", "log_sigmoid", "exponential", "quantile")
COLOURS = dict(zip(FAMILIES, (*OTHER_COLOURS, *TYPE_COLOURS.values()), strict=False))
IDS = tuple(SETTINGS)

Table = dict[str, Float[np.ndarray, "seeds settings"]]


def read_tables(root: Path) -> dict[float, Table]:
    """noise -> measure -> (seed, setting)."""
    found = {setting: read_summary(root / setting.rpartition("/")[2]) for setting in IDS}
    return {
        noise: {
            name: np.array([[found[s].get(f"noise{noise:g}.{seed}.{name}", np.nan) for s in IDS] for seed in SEEDS])
            for name in (*CRITERIA, "gold.bon1", *OUTCOMES)
        }
        for noise in NOISES
    }


def agreement(table: Table, criterion: str, outcome: str) -> tuple[float, float]:
    """Spearman correlation over the settings, seed by seed, of a criterion turned so that more is better: interval."""
    sign = 1.0 if criterion in HIGHER_IS_BETTER else -1.0
    pairs = zip(sign * table[criterion], table[outcome], strict=True)
    return interval([spearmanr(a, b, nan_policy="omit").statistic for a, b in pairs])


def ceiling(table: Table, outcome: str) -> tuple[float, float]:
    """The same with the outcome of the other seeds as the criterion: what noise between seeds leaves to be told."""
    found = table[outcome]
    return interval(
        [
            spearmanr(np.delete(found, place, 0).mean(axis=0), found[place], nan_policy="omit").statistic
            for place in range(len(found))
        ]
    )


def chosen(table: Table, criterion: str, outcome: str) -> tuple[float, float]:
    """Gain in outcome over the mean setting when each seed takes the setting that is best by ``criterion``."""
    sign = 1.0 if criterion in HIGHER_IS_BETTER or criterion in OUTCOMES else -1.0
    best = np.nanargmax(sign * table[criterion], axis=1)
    found = table[outcome]
    return interval(found[np.arange(len(found)), best] - np.nanmean(found, axis=1))


def table_text(tables: dict[float, Table]) -> str:
    """All settings, and how well each criterion tells the outcome."""
    columns = ("accuracy", "ece.raw", "ece", "mae.open", "mae.closed", "gold.bon4", "gold.bon16", "gold.kl1")
    lines = []
    for noise, table in tables.items():
        lines += [f"Rater noise {noise:g}; mean over {len(SEEDS)} seeds ± half of the 95 % interval.", ""]
        lines += [f"| setting | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
        for place, setting in enumerate(IDS):
            cells = ["{:.3f} ± {:.3f}".format(*interval(table[name][:, place])) for name in columns]
            lines.append(f"| {setting.rpartition('/')[2]} | {' | '.join(cells)} |")
        lines += ["", "Rank correlation over settings with the outcome; in brackets, gold gained by choosing so.", ""]
        lines += [f"| criterion | {' | '.join(OUTCOMES)} |", "| --- |" + " --- |" * len(OUTCOMES)]
        for criterion in CRITERIA:
            cells = [
                "{:+.2f} ± {:.2f} ({:+.3f} ± {:.3f})".format(
                    *agreement(table, criterion, outcome), *chosen(table, criterion, outcome)
                )
                for outcome in OUTCOMES
            ]
            lines.append(f"| {criterion} | {' | '.join(cells)} |")
        cells = [
            "{:+.2f} ± {:.2f} ({:+.3f} ± {:.3f})".format(*ceiling(table, outcome), *chosen(table, outcome, outcome))
            for outcome in OUTCOMES
        ]
        lines += [f"| outcome itself (other seeds; best in hindsight) | {' | '.join(cells)} |", ""]
    return "\n".join(lines)


def figure(tables: dict[float, Table]) -> bytes:
    """Accuracy against calibration, the gold reward of best-of-16 against both, a row for each noise."""
    with figure_style():
        drawing, axes = panels(len(tables), 3, height=3.6, width=13.0)
        views = (("accuracy", "mae"), ("accuracy", "gold.bon16"), ("mae", "gold.bon16"))
        names = {
            "accuracy": "held-out pair accuracy (noisy labels)",
            "mae": "mean |reward - gold|",
            "gold.bon16": "gold reward, best of 16",
        }
        for place, (noise, table) in enumerate(tables.items()):
            for ax, (x, y) in zip(axes[3 * place :], views, strict=False):
                for family in FAMILIES:
                    kept = [i for i, s in enumerate(IDS) if SETTINGS[s][0] == family]
                    for i in kept:
                        (a, da), (b, db) = interval(table[x][:, i]), interval(table[y][:, i])
                        label = family if i == kept[0] else None
                        ax.errorbar(a, b, xerr=da, yerr=db, fmt="o", ms=5, lw=0.7, color=COLOURS[family], label=label)
                ax.set(xlabel=names[x], ylabel=names[y], title=f"rater noise {noise:g}")
        axes[1].legend(fontsize=7.5, labelcolor=INK)
        drawing.supxlabel(
            f"a point is a setting, bars 95 % intervals over {len(SEEDS)} seeds", color=NEUTRAL, fontsize=8
        )
        return to_png(drawing)


def verdict(tables: dict[float, Table]) -> dict[str, object]:
    """Whether held-out accuracy alone tells, and the best setting at each noise."""
    found: dict[str, object] = {}
    enough, beaten = [], []
    for noise, table in tables.items():
        outcome = "gold.bon16"
        told = {criterion: agreement(table, criterion, outcome) for criterion in CRITERIA}
        most, _ = ceiling(table, outcome)
        best = int(np.nanargmax(np.nanmean(table[outcome], axis=0)))
        found[f"noise{noise:g}"] = {
            "rank_correlation": {name: [round(v, 3) for v in value] for name, value in told.items()},
            "ceiling": round(most, 3),
            "best_setting": IDS[best].rpartition("/")[2],
            "gain_by_accuracy": [round(v, 4) for v in chosen(table, "accuracy", outcome)],
            "gain_in_hindsight": [round(v, 4) for v in chosen(table, outcome, outcome)],
        }
        enough.append(told["accuracy"][0] - told["accuracy"][1] > 0)
        # Against the criterion of accuracy: does a calibration that needs no gold do better, seed by seed?
        beaten.append(told["ece"][0] - told["ece"][1] > told["accuracy"][0] + told["accuracy"][1])
    spread = max(
        abs(table["mae"].mean(axis=0)[i] - table["mae"].mean(axis=0)[j])
        for table in tables.values()
        for i in range(len(IDS))
        for j in range(i)
        if abs(table["accuracy"].mean(axis=0)[i] - table["accuracy"].mean(axis=0)[j]) < 0.003
    )
    found["mae_spread_at_equal_accuracy"] = round(float(spread), 3)
    found["accuracy_tells_best_of_n"] = all(enough)
    found["calibration_tells_more"] = all(beaten)
    if not all(enough):
        found["verdict"] = "against: held-out accuracy does not tell the gold reward of best-of-n"
    elif any(beaten):
        found["verdict"] = "held-out accuracy tells, calibration tells more"
    else:
        found["verdict"] = (
            "choose by held-out accuracy on the annotators' own labels: it tells best-of-n, and calibration does not "
            f"tell it better; it is blind to the spread (distances to gold differ by {spread:.2f} at equal accuracy)"
        )
    return found


def main(root: Path) -> None:
    """Write ``figures/choose_utility.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    tables = read_tables(root)
    write_findings(root, "choose_utility", figure(tables), table_text(tables), verdict(tables))
