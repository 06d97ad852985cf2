"""Table, figure and verdict from the summaries of the settings. No JAX."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import wasserstein_distance

from experiments.findings import write_findings
from experiments.measures import interval
from experiments.new_utilities.sweep import LAWS, PROGRAM_SEEDS, SEEDS, SIGMAS, SIZES
from rlhf_jax.metrics import read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, PROXY, TYPE_COLOURS, figure_style, panels, to_png

COLOURS = (TYPE_COLOURS["open"], TYPE_COLOURS["closed"], *OTHER_COLOURS)
FINE = 4000  # points that stand for a law
EXPONENTIAL = "exponential 0.25"


def vector(summary: dict[str, float], prefix: str) -> Float[np.ndarray, "K"]:
    """The numbers ``prefix.0``, ``prefix.1``, ... of a summary."""
    count = sum(key.rpartition(".")[0] == prefix for key in summary)
    return np.array([summary[f"{prefix}.{i}"] for i in range(count)])


def exponential_quantile(sigma: float, p: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The closed law: atoms sigma / (1 + 2 sigma) at 0 and at 1, the rest uniform."""
    atom = sigma / (1.0 + 2.0 * sigma)
    return np.clip((p - atom) / (1.0 - 2.0 * atom), 0.0, 1.0)


def law_distance(best: Float[np.ndarray, "K"], sigma: float) -> float:
    """Wasserstein-1 distance of finitely many best rewards from the closed law."""
    return float(wasserstein_distance(best, exponential_quantile(sigma, (np.arange(FINE) + 0.5) / FINE)))


def trained_error(summary: dict[str, float], trained: str, wanted: Float[np.ndarray, "K"]) -> tuple[float, float]:
    """Interval over seeds of the largest difference between trained and wanted rewards."""
    return interval([np.abs(vector(summary, f"{trained}.{seed}") - wanted).max() for seed in SEEDS])


def read(root: Path, name: str) -> dict[str, float]:
    """The summary of one setting."""
    return read_summary(root / name)


def findings(root: Path) -> dict[str, dict[str, float | list[float]]]:
    """Every number that the table and the verdict need."""
    exponential, quantile, world = (read(root, name) for name in ("exponential", "quantile", "world"))
    obstruction = read(root, "obstruction")
    program = [read(root, f"program.{seed}") for seed in PROGRAM_SEEDS]
    free = len(vector(exponential, f"trained.{SIGMAS[0]:g}.{SEEDS[0]}"))
    random = [key.removeprefix("outer.") for key in obstruction if key.startswith("outer.random")]
    return {
        "w1_to_law": {
            f"sigma {sigma:g}, n {size}": law_distance(vector(exponential, f"best.{sigma:g}.{size}"), sigma)
            for sigma in SIGMAS
            for size in SIZES
        },
        "exponential_trained_error": {
            f"sigma {sigma:g}": list(
                trained_error(exponential, f"trained.{sigma:g}", vector(exponential, f"best.{sigma:g}.{free}"))
            )
            for sigma in SIGMAS
        },
        "quantile_trained_error": {
            law: list(trained_error(quantile, f"trained.{law}", vector(quantile, f"wanted.{law}"))) for law in LAWS
        },
        "world_error": {
            law: list(
                interval(
                    [
                        np.abs(vector(world, f"mean.{law}.{seed}") - vector(world, f"wanted.{law}")).mean()
                        for seed in SEEDS
                    ]
                )
            )
            for law in (*LAWS, EXPONENTIAL)
        },
        "program_error": {
            "bimodal": list(interval([np.abs(vector(p, "mean") - vector(p, "wanted")).mean() for p in program])),
            "accuracy": list(interval([p["accuracy"] for p in program])),
        },
        "unreachable": {
            key.removeprefix("unreachable."): value
            for key, value in obstruction.items()
            if key.startswith("unreachable.")
        },
        "imbalance": {
            key.removeprefix("imbalance."): value for key, value in obstruction.items() if key.startswith("imbalance.")
        },
        "random_utilities": {
            "count": float(len(random)),
            "with the outermost gap the larger": float(
                sum(obstruction[f"outer.{name}"] > obstruction[f"next.{name}"] + 1e-6 for name in random)
            ),
        },
    }


def figure(root: Path) -> bytes:
    """Best rewards against the law; trained against wanted; outermost against next gap."""
    exponential, quantile, world = (read(root, name) for name in ("exponential", "quantile", "world"))
    obstruction = read(root, "obstruction")
    program = np.array([vector(read(root, f"program.{seed}"), "mean") for seed in PROGRAM_SEEDS])
    with figure_style():
        drawing, axes = panels(2, 2, height=3.7, width=12.0)
        size = SIZES[-1]
        p = (np.arange(FINE) + 0.5) / FINE
        for sigma, colour in zip(SIGMAS, COLOURS, strict=True):
            best = np.sort(vector(exponential, f"best.{sigma:g}.{size}"))
            axes[0].plot(p, exponential_quantile(sigma, p), color=colour, lw=1.2, label=f"sigma {sigma:g}")
            axes[0].plot(((np.arange(size) + 0.5) / size)[::12], best[::12], "o", ms=3, color=colour)
        axes[0].set(
            title=f"-exp(-x/sigma): best {size} rewards (dots), law (lines)", xlabel="probability", ylabel="reward"
        )
        axes[0].legend(fontsize=8, labelcolor=INK)

        for law, colour in zip(LAWS, COLOURS, strict=False):
            wanted = vector(quantile, f"wanted.{law}")
            places = np.arange(len(wanted)) + 1
            axes[1].plot(places, wanted, color=colour, lw=1.2, label=law)
            for seed in SEEDS:
                axes[1].plot(places, vector(quantile, f"trained.{law}.{seed}"), "o", ms=3, color=colour)
        axes[1].set(title="Quantile: trained logits (dots, 5 seeds), wanted (lines)", xlabel="rank", ylabel="reward")
        axes[1].legend(fontsize=8, labelcolor=INK)

        for law, colour in zip((*LAWS, EXPONENTIAL), COLOURS, strict=False):
            wanted = vector(world, f"wanted.{law}")
            places = np.arange(len(wanted)) + 1
            axes[2].plot(places, wanted, color=colour, lw=1.2, label=law)
            means = np.array([vector(world, f"mean.{law}.{seed}") for seed in SEEDS])
            centre, half = np.array([interval(column) for column in means.T]).T
            axes[2].errorbar(places, centre, yerr=half, fmt="o", ms=3, lw=1, color=colour)
        axes[2].plot(places, program.T, "s", ms=5, mfc="none", color=INK)
        axes[2].set(title="Embedded world, held-out (squares: the program, bimodal)", xlabel="rank", ylabel="reward")
        axes[2].legend(fontsize=8, labelcolor=INK)

        random = [key.removeprefix("outer.") for key in obstruction if key.startswith("outer.random")]
        axes[3].plot([0, 0.3], [0, 0.3], color=NEUTRAL, lw=1)
        axes[3].plot(
            [obstruction[f"next.{name}"] for name in random],
            [obstruction[f"outer.{name}"] for name in random],
            "o",
            ms=3,
            color=NEUTRAL,
            label=f"{len(random)} utilities of the gap",
        )
        for law, colour in zip(LAWS, COLOURS, strict=False):
            axes[3].plot(
                obstruction[f"next.{law}"],
                obstruction[f"outer.{law}"],
                "*",
                ms=11,
                color=colour,
                label=f"wanted: {law}",
            )
        axes[3].fill_between([0, 0.3], [0, 0.3], 0.3, color=PROXY, alpha=0.08, lw=0)
        axes[3].set(title="Above the diagonal no utility of the gap leads", xlabel="r2 - r3", ylabel="r1 - r2")
        axes[3].legend(fontsize=8, labelcolor=INK)
        return to_png(drawing)


def table_text(found: dict[str, dict[str, float | list[float]]]) -> str:
    """All findings, one table each."""
    titles = {
        "w1_to_law": "Wasserstein-1 distance of n best rewards from the closed law, exponential utility",
        "exponential_trained_error": "Largest |trained - best| over 20 free logits, exponential utility",
        "quantile_trained_error": "Largest |trained - wanted| over 20 free logits, quantile utility",
        "world_error": "Mean over ranks of |mean held-out reward - wanted|, embedded world",
        "program_error": "The same for the program's own reward stage under Bimodal, and its pair accuracy",
        "unreachable": "Smallest imbalance of pulls that any concave increasing U of the gap leaves (8 responses)",
        "imbalance": "The same by mixtures of smooth slopes (rlhf_jax.theory), over the sum of the pulls",
        "random_utilities": "Best rewards of random utilities of the gap",
    }
    lines = []
    for name, title in titles.items():
        lines += [f"{title}.", "", "| | value |", "| --- | --- |"]
        for key, value in found[name].items():
            text = "{:.4f} ± {:.4f}".format(*value) if isinstance(value, list) else f"{value:.4g}"
            lines.append(f"| {key} | {text} |")
        lines.append("")
    return "\n".join(lines)


def verdict(found: dict[str, dict[str, float | list[float]]]) -> dict[str, object]:
    """Each claim, held to a stated limit."""

    def highest(name: str) -> float:
        return max(value[0] + value[1] if isinstance(value, list) else value for value in found[name].values())

    largest = SIZES[-1]
    claims = {
        "exponential_follows_its_law": max(
            value
            for key, value in found["w1_to_law"].items()
            if key.endswith(f"n {largest}")  # type: ignore[type-var]
        )
        < 0.01,
        "exponential_as_trained_is_as_in_theory": highest("exponential_trained_error") < 0.02,
        "quantile_reaches_every_law": highest("quantile_trained_error") < 0.02,
        "also_on_held_out_text": highest("world_error") < 0.1 and found["program_error"]["bimodal"][0] < 0.1,  # type: ignore[index]
        "no_utility_of_the_gap_reaches_beta_2_2_beta_5_2_bimodal": min(
            found["unreachable"][law]
            for law in ("Beta(2, 2)", "Beta(5, 2)", "bimodal")  # type: ignore[type-var]
        )
        > 0.01,
        "outermost_gap_never_the_larger": found["random_utilities"]["with the outermost gap the larger"] == 0.0,
    }
    failed = [name for name, holds in claims.items() if not holds]
    return {
        "claims": claims,
        "verdict": "every claim holds" if not failed else f"against the claim: {', '.join(failed)}",
        "findings": found,
    }


def main(root: Path) -> None:
    """Write ``figures/new_utilities.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    found = findings(root)
    write_findings(root, "new_utilities", figure(root), table_text(found), verdict(found))
