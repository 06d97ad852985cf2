"""``rlhf-jax theory``: the rewards that a utility asks for, without training anything.

A mistake on the command line is told before JAX is loaded.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_jax.commands.utility_words import PARAMETERS, make_named, read_positive, read_utility
from rlhf_jax.config import did_you_mean
from rlhf_jax.errors import UserError

if TYPE_CHECKING:
    from rlhf_jax.objectives.utilities import LimitLaw, Utility
    from rlhf_jax.theory.optimum import Optimum

MOST_RESPONSES = 5000  # some gigabytes and a minute
_FLAGS = ("json", "help")
_VALUED = ("utility", "n", "tiers", "eps", "tangent", "plot")
_OPTIONS = tuple(f"--{name}" for name in (*_VALUED, *_FLAGS))
_HELP = """The rewards in [0, 1] that maximise the sum of a utility U over all pairs of n ranked responses, in float64.

usage: rlhf-jax theory --utility=NAME[:PARAMETER] [--n=N | --tiers=N,..] [--eps=E | --tangent=E] [--json] [--plot=FILE]

  --utility=NAME    power:GAMMA x^gamma, negative_power:GAMMA -x^-gamma, log, log_sigmoid:SIGMA log s(x/sigma), linear,
                    exponential:SIGMA -exp(-x/sigma), quantile:A,B (rewards follow Beta(A, B)),
                    or FILE.py:CLASS[:PARAMETER,..] of your own, those of gamma, sigma, a, b that it has, in its order
  --n=N             number of responses, all ranked, from 2 to 5000 (8)
  --tiers=2,3,3     sizes of tiers of equally good responses, the best first, instead of --n
  --eps=E           of U(x + E), a straight line below 0: what is trained with extension "shift"
  --tangent=E       of U with its tangent below E: what is trained with extension "tangent"
                    (without either: U itself; utilities defined for every gap have no use for them)
  --json            print {"r": [best first], "objective": sum of U, "kkt_residual": 0 is exact} and nothing else
  --plot=FILE       a picture, .png or .svg: reward by rank, and the limit law

examples:
  rlhf-jax theory --utility=power:0.5 --n=8
  rlhf-jax theory --utility=log --n=8 --eps=0.1 --json
  rlhf-jax theory --utility=negative_power:1 --tiers=2,3,3 --plot=tiers.svg"""


@dataclasses.dataclass(frozen=True)
class Question:
    """What the command line asked for. ``values``: parameters of the utility ``name``, the class's own if empty."""

    name: str
    values: tuple[float, ...]
    tiers: tuple[int, ...]
    extension: str  # shift or tangent, with epsilon; empty: U itself
    epsilon: float
    as_json: bool
    plot: str


def main(words: Sequence[str]) -> None:
    """Answer the words after ``theory``.

    Raises:
      UserError: one line, for anything that cannot be answered.
    """
    options = _options(words)
    if "help" in options:
        print(_HELP)
        return
    question = _question(options)
    utility, optimum = _answer(question)
    if question.plot:
        _plot(question, utility, optimum)
    if question.as_json:
        numbers = {
            "r": optimum.rewards.tolist(),
            "objective": optimum.objective,
            "kkt_residual": optimum.kkt_residual,
        }
        print(json.dumps(numbers))
    else:
        _print_table(question, utility, optimum)


# ------------------------------------------------------------------------- words to a question


def _options(words: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in (*_FLAGS, *_VALUED):
            hint = did_you_mean(f"--{name.lstrip('-')}", _OPTIONS) or f"; the options are {', '.join(_OPTIONS)}"
            raise UserError(f"theory: {word}: no such option{hint}")
        if name in _FLAGS and equals:
            raise UserError(f"theory: --{name}: takes no value, but {text!r} was given")
        if name in _VALUED and not equals:
            text = left.pop(0) if left and not left[0].startswith("--") else ""
        if name in _VALUED and not text:
            raise UserError(f"theory: --{name}: no value given")
        options[name] = text
    return options


def _question(options: dict[str, str]) -> Question:
    if "utility" not in options:
        raise UserError(f"theory: --utility: missing; one of {', '.join(PARAMETERS)}, or FILE.py:CLASS")
    if "eps" in options and "tangent" in options:
        raise UserError("theory: --eps and --tangent: two forms of one utility, give one of them")
    name, values = read_utility("theory: --utility", options["utility"])
    extension = "shift" if "eps" in options else "tangent" if "tangent" in options else ""
    given = "eps" if extension == "shift" else "tangent"
    epsilon = read_positive(f"theory: --{given}", options[given]) if extension else 0.0
    plot = options.get("plot", "")
    if plot and Path(plot).suffix not in (".png", ".svg"):
        raise UserError(f"theory: --plot: {plot} is neither a .png nor a .svg file")
    if plot and not Path(plot).parent.is_dir():
        raise UserError(f"theory: --plot: no such folder: {Path(plot).parent}")
    return Question(name, values, _tiers(options), extension, epsilon, "json" in options, plot)


def _tiers(options: dict[str, str]) -> tuple[int, ...]:
    n = _count("--n", options["n"], 2) if "n" in options else 8
    if "tiers" not in options:
        return (1,) * n
    sizes = tuple(_count("--tiers", part, 1) for part in options["tiers"].split(","))
    if len(sizes) < 2:
        raise UserError(f"theory: --tiers: {options['tiers']} is one tier, and only different tiers are compared")
    if "n" in options and sum(sizes) != n:
        raise UserError(f"theory: --tiers: {options['tiers']} are {sum(sizes)} responses, but --n={n}")
    if sum(sizes) > MOST_RESPONSES:
        raise UserError(f"theory: --tiers: {options['tiers']} are {sum(sizes)} responses, at most {MOST_RESPONSES}")
    return sizes


def _count(name: str, text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"theory: {name}: {text!r} is not a whole number") from None
    if not least <= value <= MOST_RESPONSES:
        raise UserError(f"theory: {name}: {text} is not allowed, must be from {least} to {MOST_RESPONSES}")
    return value


# ------------------------------------------------------------------------- the answer


def _answer(question: Question) -> "tuple[Utility, Optimum]":
    from rlhf_jax.objectives.members import told
    from rlhf_jax.theory.optimum import best_rewards_of_tiers

    form: dict[str, float | str] = {"extension": question.extension, "epsilon": question.epsilon}
    try:
        utility = make_named(
            "theory: --utility", question.name, question.values, **(form if question.extension else {})
        )
        return utility, best_rewards_of_tiers(utility, question.tiers, trained=bool(question.extension))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        if question.name not in PARAMETERS:
            raise UserError(f"theory: --utility: {question.name}: {told(error, question.name)}") from None
        if isinstance(error, ValueError | ArithmeticError):
            raise UserError(f"theory: {error}") from None
        raise


def _law(question: Question, utility: "Utility") -> "LimitLaw | None":
    """The limit law, if it is that of the question: of U itself, over a full order."""
    return utility.limit_law() if set(question.tiers) == {1} else None


def _title(question: Question, utility: "Utility") -> str:
    from rlhf_jax.objectives.utilities import parameters_of

    given = zip(parameters_of(type(utility)), question.values, strict=False)
    numbers = ", ".join(f"{key}={value:g}" for key, value in given)
    form = f", {question.extension} {question.epsilon:g}" if question.extension else ""
    tiers = "" if set(question.tiers) == {1} else f" in tiers {','.join(map(str, question.tiers))}"
    name = (utility.name or question.name) + (f"({numbers})" if numbers else "")
    return f"{name}{form}: {sum(question.tiers)} responses{tiers}"


def _describe(law: "LimitLaw") -> str:
    rest = "uniform" if law.a == law.b == 1.0 else f"Beta({law.a:g}, {law.b:g})"
    if law.atom == 0.5:
        return "half at 0, half at 1"
    return rest if law.atom == 0.0 else f"{law.atom:.4g} at 0 and at 1 each, {rest} between"


def _print_table(question: Question, utility: "Utility", optimum: "Optimum") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rlhf_jax.objectives.utilities import unsettable
    from rlhf_jax.theory.limits import kolmogorov_smirnov, wasserstein_1

    console, n = Console(highlight=False), len(optimum.rewards)
    table = Table(
        "rank", "reward", "distance to the nearer end", title=escape(_title(question, utility)), title_justify="left"
    )
    shown = range(n) if n <= 24 else [*range(10), *range(n - 10, n)]
    for i in shown:
        if i and i - 1 not in shown:
            table.add_row("...", "...", "...")
        table.add_row(str(i + 1), f"{optimum.rewards[i]:.12f}", f"{optimum.tails[i]:.12g}")
    console.print(table)
    console.print(f"objective     {optimum.objective!r}", f"kkt residual  {optimum.kkt_residual:.1e}", sep="\n")
    if not optimum.unique:
        console.print("other rewards are as good: a response that is pulled up as much as down is free")
    if question.name not in PARAMETERS and unsettable(type(utility)):
        console.print(unsettable(type(utility)), soft_wrap=True)
    law = _law(question, utility)
    if law is not None:
        distances = f"W1 {wasserstein_1(optimum.rewards, law):.6f}, KS {kolmogorov_smirnov(optimum.rewards, law):.6f}"
        of = "limit law of U itself" if question.extension else "limit law"
        console.print(f"{of}: {_describe(law)}; distance {distances}", soft_wrap=True)


def _plot(question: Question, utility: "Utility", optimum: "Optimum") -> None:
    import numpy as np

    from rlhf_jax.reports.style import NEUTRAL, TYPE_COLOURS, figure_style, panels, to_png
    from rlhf_jax.theory.limits import quantile

    n = len(optimum.rewards)
    with figure_style():
        figure, (axes,) = panels(1, 1, width=6.4, height=4.0)
        law = _law(question, utility)
        if law is not None:
            at = np.linspace(0.0, 1.0, 801)
            of = "limit law of U itself" if question.extension else "limit law"
            axes.plot(at * n + 0.5, quantile(law, 1.0 - at), color=NEUTRAL, label=f"{of}: {_describe(law)}")
        axes.plot(np.arange(1, n + 1), optimum.rewards, "o", color=TYPE_COLOURS["open"], label="best rewards")
        axes.set(xlabel="rank (1 = best)", ylabel="reward", ylim=(-0.03, 1.03), title=_title(question, utility))
        axes.legend(loc="best")
        try:
            if question.plot.endswith(".png"):
                Path(question.plot).write_bytes(to_png(figure))
            else:
                figure.savefig(question.plot, format="svg", metadata={"Date": None})
        except OSError as error:
            raise UserError(f"theory: --plot: {question.plot}: {error.strerror}") from None
