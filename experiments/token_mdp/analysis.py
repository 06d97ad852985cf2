"""Table, figure and verdict from the records of the settings. No JAX."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from experiments.findings import write_findings
from experiments.measures import interval
from experiments.token_mdp.sweep import (
    BEHAVIOURS,
    EVERY,
    EXPLORING_EVERY,
    LEARNERS,
    SEEDS,
    SIZES,
    TABULAR,
    TASK_NAMES,
    TRANSFORMER_EVERY,
    TRANSFORMER_SEEDS,
    TRANSFORMERS,
)
from rlhf_jax.metrics import read_json, read_summary
from rlhf_jax.reports.style import INK, NEUTRAL, OTHER_COLOURS, PROXY, TYPE_COLOURS, figure_style, panels, to_png

# What is claimed: a policy within POLICY of its target (mean total variation of next tokens), values within VALUE of
# the Bellman solution (root mean square; their own spread is 0.3 to 0.5). Every seed must hold.
POLICY, VALUE = 0.05, 0.05
REWARD_LEARNERS, IMITATORS = ("ppo", "gradient", "soft_q"), ("best_of_n", "filtered")
FITTED = ("ppo", "soft_q", "value")
DECADES = (0.001, 0.01, 0.1, 1.0)
SEEN = 0.01  # probability per response of the states that are drawn
COLOURS = dict(
    zip(LEARNERS, (TYPE_COLOURS["open"], NEUTRAL, PROXY, TYPE_COLOURS["closed"], *OTHER_COLOURS), strict=False)
)
TITLES = {
    "ppo": "PPO",
    "ppo_constant": "PPO, constant rate",
    "gradient": "policy gradient",
    "soft_q": "soft Q-learning",
    "best_of_n": "imitates best of 4",
    "filtered": "imitates the best quarter",
    "value": "values of a fixed policy",
}
HELD = (
    "yes: values match the Bellman solution, reward and value objectives end at the soft optimum, imitation at its own "
    "closed form, which is another policy; without exploration the trap is not left"
)
Curves = dict[str, Float[np.ndarray, "seeds records"]]


def read_curves(folder: Path) -> Curves:
    """Measure -> (seed, record), the first record before the first iteration."""
    return {name: np.array(values) for name, values in read_json(folder / "curves.json").items()}


def read_all(root: Path) -> dict[str, Curves]:
    """Setting -> its curves; those of the decoder have their seeds together."""
    found = {name: read_curves(root / name) for name in TABULAR}
    for name in TRANSFORMERS:
        each = [read_curves(root / f"{name}.{seed}") for seed in TRANSFORMER_SEEDS]
        found[name] = {key: np.concatenate([one[key] for one in each]) for key in each[0]}
    return found


def at_end(curves: Curves, measure: str) -> Float[np.ndarray, "seeds"]:
    """A measure after the last iteration."""
    return curves[measure][:, -1]


def _cell(curves: Curves, measure: str) -> str:
    if measure not in curves:
        return "—"
    return "{:.4f} ± {:.4f}".format(*interval(at_end(curves, measure)))


def table_text(runs: dict[str, Curves], exact: dict[str, float], explored: dict[str, dict[str, list[float]]]) -> str:
    """Learners against their targets, imitation in closed form, and exploration."""
    lines = [f"Learners after their last iteration: mean over seeds ± half of the 95 % interval; {len(SEEDS)} seeds,"]
    lines += [f"{len(TRANSFORMER_SEEDS)} of the decoder. Target: the optimum; of imitation its own closed form.", ""]
    heads = {
        "tv.mean": "TV to target, mean",
        "tv.worst": "worst state",
        "tv.responses": "responses",
        "from_optimum.responses": "responses, TV to the optimum",
        "gap": "objective below the optimum",
        "value.rms": "value, RMS error",
        "value.worst": "worst state",
        "value.spread": "spread of exact values",
    }
    lines += [f"| setting | {' | '.join(heads.values())} |", "| --- |" + " --- |" * len(heads)]
    for name, curves in runs.items():
        fixed = name.endswith(".value")  # a policy that stays has no target
        cells = ["—" if fixed and not head.startswith("value") else _cell(curves, head) for head in heads]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "In closed form: imitation of what is best against the optimum of the same rewards.", ""]
    columns = ("reward", "kl", "objective", "mean", "responses")
    lines += ["| task, policy | reward | KL, nats | objective | TV, next tokens | TV, responses |"]
    lines += ["| --- |" + " --- |" * len(columns)]
    for task in TASK_NAMES:
        for policy in ("reference", *(f"best_of_{n}" for n in SIZES), "filtered", "optimum"):
            cells = [f"{exact[f'{task}.{policy}.{column}']:.3f}" for column in columns]
            lines.append(f"| {task}, {policy} | {' | '.join(cells)} |")
    episodes = EXPLORING_EVERY * len(explored["greedy"]["found"])
    lines += ["", f"Exploration: Q-learning on a trap, {episodes} episodes.", ""]
    lines += ["| tokens chosen | best response found | its greedy response is paid | earned while learning |"]
    lines += ["| --- | --- | --- | --- |"]
    for name, found in explored.items():
        end = f"{found['found'][-1]:.1%} | {found['value'][-1]:.3f} | {np.mean(found['earned']):.3f}"
        lines.append(f"| {name} | {end} |")
    return "\n".join([*lines, ""])


def _draw_curves(ax: Axes, curves: Curves, measure: str, every: int, colour: str, label: str) -> None:
    values = curves[measure]
    steps = every * np.arange(values.shape[1])
    ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, lw=0)
    ax.plot(steps, values.mean(axis=0), color=colour, label=label, lw=1.4)


def _draw_values(ax: Axes, root: Path, settings: dict[str, tuple[str, str]]) -> None:
    """``settings``: folder -> (label, colour)."""
    for name, (label, colour) in settings.items():
        rows = read_json(root / name / "values.json")["seeds"]
        exact, learned, seen = (np.concatenate([row[key] for row in rows]) for key in ("exact", "learned", "visits"))
        shown = seen >= SEEN
        ax.plot(exact[shown], learned[shown], "o", ms=2.8, alpha=0.6, color=colour, label=label, mew=0)
    ends = np.array(ax.get_xlim())
    ax.plot(ends, ends, color=INK, lw=0.7, zorder=0)
    ax.set(xlabel="Bellman solution", ylabel="learned value")
    ax.legend(fontsize=8, labelcolor=INK)


def figure(root: Path, runs: dict[str, Curves], explored: dict[str, dict[str, list[float]]]) -> bytes:
    """Values against the Bellman solution; distance to the optimum over iterations; exploration."""
    tasks = dict(zip(TASK_NAMES, (TYPE_COLOURS["open"], TYPE_COLOURS["closed"], OTHER_COLOURS[0]), strict=True))
    with figure_style():
        drawing, axes = panels(2, 3, height=3.8, width=13.5)
        _draw_values(axes[0], root, {f"{task}.value": (f"{task} rewards", colour) for task, colour in tasks.items()})
        axes[0].set(title="Values of a fixed policy, five seeds")
        decoders = {f"{name}.{seed}": name for name in TRANSFORMERS for seed in TRANSFORMER_SEEDS}
        labels = {"transformer_token": "decoder, token rewards", "transformer_terminal": "decoder, terminal"}
        shades = {"transformer_token": OTHER_COLOURS[1], "transformer_terminal": OTHER_COLOURS[2]}
        critics = {f"{task}.ppo": (f"table, {task}", tasks[task]) for task in ("token", "terminal")}
        critics |= {key: (labels[name] if key.endswith(".0") else "_", shades[name]) for key, name in decoders.items()}
        _draw_values(axes[1], root, critics)
        axes[1].set(title="PPO's value model at its end")
        for ax, task in ((axes[2], "token"), (axes[3], "terminal")):
            for learner in (learner for learner in LEARNERS if learner != "value"):
                curves = runs[f"{task}.{learner}"]
                _draw_curves(ax, curves, "from_optimum.responses", EVERY, COLOURS[learner], TITLES[learner])
            ax.set(title=f"Tables, {task} rewards", ylabel="TV of responses to the optimum")
        for name in TRANSFORMERS:
            _draw_curves(axes[4], runs[name], "from_optimum.responses", TRANSFORMER_EVERY, shades[name], labels[name])
        axes[4].set(title="The project's PPO with a decoder, three seeds", ylabel="TV of responses to the optimum")
        for ax in axes[2:5]:
            ax.set(xlabel="iterations", yscale="log", ylim=(1e-3, 1.0))
            ax.set_yticks(DECADES, labels=[f"{level:g}" for level in DECADES])  # powers would be set as formulas
        axes[2].legend(fontsize=8, labelcolor=INK, loc="lower left")
        axes[4].legend(fontsize=8, labelcolor=INK, loc="lower left")
        for name, colour in zip(BEHAVIOURS, COLOURS.values(), strict=False):
            found = explored[name]["found"]
            axes[5].plot(EXPLORING_EVERY * np.arange(1, 1 + len(found)), found, color=colour, label=name)
        axes[5].set(title="Exploration on a trap", xlabel="episodes", ylabel="share of 200 seeds at the best response")
        axes[5].legend(fontsize=8, labelcolor=INK, loc="lower right", bbox_to_anchor=(1.0, 0.05))
        return to_png(drawing)


def _worst(runs: dict[str, Curves], names: list[str], measure: str) -> float:
    """The worst seed of the worst setting."""
    return max(float(at_end(runs[name], measure).max()) for name in names)


def verdict(root: Path, runs: dict[str, Curves], explored: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Whether each part of the claim holds at every seed, and the worst figure behind it."""

    def of(learners: tuple[str, ...]) -> list[str]:
        return [name for name in TABULAR if TABULAR[name][1] in learners]

    policies = {learner: _worst(runs, of((learner,)), "tv.mean") for learner in (*REWARD_LEARNERS, *IMITATORS)}
    values = {learner: _worst(runs, of((learner,)), "value.rms") for learner in FITTED}
    decoder = _worst(runs, list(TRANSFORMERS), "tv.mean"), _worst(runs, list(TRANSFORMERS), "value.rms")
    apart = min(float(at_end(runs[name], "from_optimum.responses").min()) for name in of(IMITATORS))
    floor = _worst(runs, of(("ppo_constant",)), "tv.mean")
    parts = {
        "reward_and_value_objectives_reach_the_optimum": max(policies[name] for name in REWARD_LEARNERS) < POLICY,
        "values_match_the_bellman_solution": max(values.values()) < VALUE,
        "decoder_reaches_the_optimum": decoder[0] < POLICY and decoder[1] < VALUE,
        "imitation_reaches_its_closed_form": max(policies[name] for name in IMITATORS) < POLICY,
        "imitation_is_not_the_optimum": apart > 2 * POLICY,
        "greedy_gets_stuck": explored["greedy"]["found"][-1] < 0.5 < explored["epsilon 0.1"]["found"][-1],
    }
    failed = [name for name, holds in parts.items() if not holds]
    return {
        **parts,
        "policy_worst_seed": {name: round(value, 4) for name, value in policies.items()},
        "value_rms_worst_seed": {name: round(value, 4) for name, value in values.items()},
        "value_rms_if_all_returns_were_averaged": {
            task: round(read_summary(root / f"{task}.value")["sampling_error"], 4) for task in TASK_NAMES
        },
        "decoder_worst_seed": {"policy": round(decoder[0], 4), "value_rms": round(decoder[1], 4)},
        "ppo_at_a_constant_rate_worst_seed": round(floor, 4),
        "imitation_nearest_to_the_optimum": round(apart, 4),
        "best_response_found": {name: round(found["found"][-1], 3) for name, found in explored.items()},
        "verdict": ("not held: " + ", ".join(failed)) if failed else HELD,
    }


def main(root: Path) -> None:
    """Write ``figures/token_mdp.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    runs, explored = read_all(root), read_json(root / "exploring" / "curves.json")
    write_findings(
        root,
        "token_mdp",
        figure(root, runs, explored),
        table_text(runs, read_summary(root / "exact"), explored),
        verdict(root, runs, explored),
    )
