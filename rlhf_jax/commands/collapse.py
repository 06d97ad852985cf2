"""``rlhf-jax collapse``: have the rewards of different prompt types collapsed into one distribution?

Works on the scores of any reward model, and needs JAX only where a utility is named.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlhf_jax.commands.utility_words import make_named, read_utility
from rlhf_jax.config import did_you_mean
from rlhf_jax.console import clean_text
from rlhf_jax.diagnostics import Collapse, coincide, distribution_summary, is_far
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import read_jsonl
from rlhf_jax.reports.collapse import collapse_of
from rlhf_jax.reports.distributions import plot_rewards
from rlhf_jax.reports.fields import Fields, check_fields, is_number, is_text, is_whole
from rlhf_jax.reports.plot_paper import paper
from rlhf_jax.reports.records import COMPARED, RewardLists, lists_by_type, newest_held_out, read_run
from rlhf_jax.reports.style import FORMATS

_OPTIONS = ("--json", "--utility", "--plot", "--help")
_HELP = """Do the rewards of different types of prompt follow one distribution, where they should not?

usage: rlhf-jax collapse FILE.jsonl|RUN [--utility=TYPE=NAME[:PARAMETER] ...] [--json] [--plot=FILE]

  FILE.jsonl        scores of any reward model, one response a line:
                    {"prompt_type": "open", "list": 17, "rank": 0, "reward": 0.93}
                    list: number or text, the same for responses to one prompt; rank: whole number, smaller is better,
                    equal ranks are ties; optional: "gold", the true reward; "best", the reward at the optimum
  RUN               a run directory: the last held-out evaluation of each of its reward models
  --utility=T=U     prompt type T is (or should be) trained under utility U, named as in rlhf-jax theory: gives the
                    best rewards, how far from them the types are, and how far apart the types should be
  --json            print one JSON object and nothing else
  --plot=FILE       a picture, .png, .svg or .pdf: distributions, and reward by rank

Printed: of each type the mean reward at each rank; of each pair of types the Wasserstein-1 distance W1 (in reward), the
Kolmogorov-Smirnov distance, and what the same lists give when their types are shuffled (mean W1; p-value); the collapse
index (1: one distribution, 0: as far apart as expected, or farther; expected from utilities, else from gold rewards,
else a conventional scale), and a warning where types that should differ coincide.

examples:
  rlhf-jax collapse scores.jsonl --utility=open=negative_power:0.5 --utility=closed=power:0.8
  rlhf-jax collapse runs/quickstart --json"""


@dataclasses.dataclass(frozen=True)
class Reading:
    """One reward model: its lists by prompt type, and what they show."""

    lists: Mapping[str, RewardLists]
    found: Collapse


def main(words: Sequence[str]) -> None:
    """Answer the words after ``collapse``.

    Raises:
      UserError: one line, for anything that cannot be answered.
    """
    path, utilities, plot, as_json = _options(words)
    if path is None:
        print(_HELP)
        return
    readings = _readings(path, utilities)
    if plot:
        _plot(plot, readings)
    if as_json:
        shown = {name: _as_json(reading.found) for name, reading in readings.items()}
        print(json.dumps(shown if path.is_dir() else shown[path.stem], ensure_ascii=False, allow_nan=False))
    else:
        for name, reading in readings.items():
            _print(name, reading)


# ------------------------------------------------------------------------- words to options


def _options(words: Sequence[str]) -> tuple[Path | None, dict[str, str], Path | None, bool]:
    """File or run (None: help was asked for), utilities by prompt type, picture, whether JSON is wanted."""
    paths: list[str] = []
    utilities: dict[str, str] = {}
    plot, as_json = None, False
    for word in words:
        name, equals, text = word.partition("=")
        if not word.startswith("--"):
            paths.append(word)
        elif name == "--help":
            return None, {}, None, False
        elif name == "--json" and not equals:
            as_json = True
        elif name == "--plot" and text:
            plot = Path(text)
        elif name == "--utility" and "=" in text:
            kind, _, utilities_text = text.partition("=")
            utilities[kind] = utilities_text
        elif name in _OPTIONS:
            wanted = {"--json": "--json", "--plot": "--plot=FILE", "--utility": "--utility=TYPE=NAME[:PARAMETER]"}
            raise UserError(f"collapse: {word}: must be {wanted[name]}")
        else:
            hint = did_you_mean(name, _OPTIONS) or f"; the options are {', '.join(_OPTIONS)}"
            raise UserError(f"collapse: {word}: no such option{hint}")
    if len(paths) != 1:
        raise UserError(
            f"collapse: name one JSONL file or run directory, not {len(paths)}; see rlhf-jax collapse --help"
        )
    if plot and plot.suffix[1:] not in FORMATS:
        raise UserError(f"collapse: --plot: {plot} is none of a .png, .svg or .pdf file")
    return Path(paths[0]), utilities, plot, as_json


# ------------------------------------------------------------------------- files to lists


def _readings(path: Path, utilities: Mapping[str, str]) -> dict[str, Reading]:
    stages: dict[str, tuple[Mapping[str, RewardLists], Mapping[str, Any]]]
    if path.is_dir():
        run = read_run(path)
        stages = {stage: (lists, run.optimum.get(stage, {})) for stage, lists in run.rewards.items() if lists}
        if not stages:
            raise UserError(f"{path}: no rewards of a reward model in this run directory")
    elif path.is_file():
        stages = {path.stem: (lists_by_type(read_scores(path)), {})}
    else:
        raise UserError(f"{path}: no such file or run directory")
    solvers = {kind: _solver(kind, text) for kind, text in utilities.items()}
    for kind in utilities:
        known = {found for lists, _ in stages.values() for found in lists}
        if kind not in known:
            raise UserError(f"collapse: --utility: no prompt of type {kind!r} in {path}{did_you_mean(kind, known)}")
    readings = {}
    for stage, (lists, optimum) in stages.items():
        for kind, solve in solvers.items():
            if kind in lists:
                lists = {**lists, kind: _with_best(lists[kind], solve)}
        # Utilities that were named decide, not those of the run's record.
        readings[stage] = Reading(lists, collapse_of(lists, {} if utilities else optimum))
    return readings


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of scores: the held-out ones of the last step, if it says so; ranks dense in each list.

    Raises:
      UserError: a row that cannot be used, as ``file:line: field: reason``; or no row.
    """
    rows = read_jsonl(path, torn=False)
    check_fields(path, rows, _REQUIRED, _OPTIONAL)
    rows = newest_held_out(rows)
    if not rows:
        raise UserError(f"{path}: no rows")
    lists: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        lists.setdefault((row["prompt_type"], row["list"]), []).append(row)
    for members in lists.values():
        dense = np.unique([row["rank"] for row in members], return_inverse=True)[1]
        for row, rank in zip(members, dense.tolist(), strict=True):
            row["rank"] = rank
    return rows


_REQUIRED: Fields = {
    "prompt_type": (is_text, "a text"),
    "list": (lambda value: isinstance(value, str) or is_whole(value), "a whole number or a text"),
    "rank": (lambda value: is_whole(value) and abs(value) < 2**53, "a whole number"),
    "reward": (is_number, "a finite number"),
}
_OPTIONAL: Fields = {
    "gold": (is_number, "a finite number"),
    "best": (is_number, "a finite number"),
    **COMPARED,
    "step": (is_whole, "a whole number"),
    "split": (lambda value: isinstance(value, str), "a text"),
}


# ------------------------------------------------------------------------- best rewards


def _solver(kind: str, text: str) -> Callable[[tuple[int, ...]], np.ndarray]:
    """From sizes of tiers, best first, to the best rewards under the utility ``text`` itself."""
    option = f"collapse: --utility={kind}"
    name, values = read_utility(option, text)

    from rlhf_jax.objectives.members import told
    from rlhf_jax.theory.optimum import best_rewards_of_tiers

    try:
        utility = make_named(option, name, values)
        best_rewards_of_tiers(utility, (1, 1))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        raise UserError(f"{option}: {text}: {told(error, name)}") from None
    return lambda sizes: best_rewards_of_tiers(utility, sizes).rewards


def _with_best(lists: RewardLists, solve: Callable[[tuple[int, ...]], np.ndarray]) -> RewardLists:
    best, solved = np.full(lists.rewards.shape, np.nan), {}
    for row, (ranks, mask) in enumerate(zip(lists.ranks, lists.mask, strict=True)):
        held = ranks[mask]
        sizes = tuple(np.unique(held, return_counts=True)[1].tolist())
        if len(sizes) < 2:  # nothing is compared
            continue
        if sizes not in solved:
            try:
                solved[sizes] = solve(sizes)
            except (ValueError, ArithmeticError) as error:
                raise UserError(f"collapse: --utility: {error}") from None
        own = np.empty(len(held))
        own[np.argsort(held, kind="stable")] = solved[sizes]
        best[row, mask] = own
    return dataclasses.replace(lists, best=best)


# ------------------------------------------------------------------------- what is shown


def _as_json(found: Collapse) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return [plain(item) for item in value.tolist()]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def fields(reading: Any) -> dict[str, Any]:
        return {field.name: plain(getattr(reading, field.name)) for field in dataclasses.fields(reading)}

    return {
        "types": {kind: fields(reading) for kind, reading in found.types.items()},
        "pairs": [fields(pair) for pair in found.pairs],
        "collapse_index": found.index,
        "warnings": coincide(found),
    }


def _print(name: str, reading: Reading) -> None:
    console, found = Console(highlight=False), reading.found
    # Prompts of no type take part in no comparison.
    types = {kind: found.types[kind] for kind in reading.lists if kind in found.types}
    table = Table(title=escape(clean_text(name)), title_justify="left")
    table.add_column("rank")
    for kind, one in types.items():
        table.add_column(escape(clean_text(kind)), justify="right")
        if one.r_star is not None:
            table.add_column("best", justify="right")
    for rank in range(max((len(one.profile) for one in types.values()), default=0)):
        cells = [str(rank)]
        for one in types.values():
            cells += [_at(values, rank) for values in (one.profile, one.r_star) if values is not None]
        table.add_row(*cells)
    console.print(table)
    for kind, one in types.items():
        spread = distribution_summary(reading.lists[kind].values)
        line = f"{kind}: {one.responses} responses in {one.lists} lists"
        line += f", mean {spread['mean']:.3f}, std {spread['std']:.3f}"
        if one.mean_distance is not None:
            line += f"; from the best rewards {one.mean_distance:.3f} (mean), {one.max_distance:.3f} (largest)"
        console.print(clean_text(line), soft_wrap=True, markup=False)
    for pair in found.pairs:
        index = "too few lists" if pair.index is None else f"{pair.index:.2f}"
        line = (
            f"{pair.first} and {pair.second}: W1 {pair.w1:.4f}, KS {pair.ks:.4f}; shuffled lists W1 {pair.floor:.4f}, "
            f"p {pair.p_value:.3f}; expected W1 {pair.expected:.4f} ({pair.basis}); collapse index {index}"
        )
        if is_far(pair):
            line += f"; {pair.w1 / pair.expected:.1f} times as far apart as they should lie"
        console.print(clean_text(line), soft_wrap=True, markup=False)
    if not found.pairs:
        console.print("fewer than two types of prompt: nothing to compare")
    elif found.index is not None:
        console.print(f"collapse index: {found.index:.3f}")
    for line in coincide(found):
        console.print(f"warning: {clean_text(line)}", soft_wrap=True, markup=False)


def _at(values: np.ndarray, rank: int) -> str:
    return f"{values[rank]:.3f}" if rank < len(values) and math.isfinite(values[rank]) else "–"


def _plot(path: Path, readings: Mapping[str, Reading]) -> None:
    (data,) = paper(plot_rewards({name: reading.lists for name, reading in readings.items()}), path.suffix[1:])
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"collapse: --plot: {path}: {error.strerror}") from None
