"""``rlhf-jax best-of-n``: what the best of n answers is worth, by the reward model and in truth.

A mistake on the command line is told before JAX is loaded.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from rlhf_jax.config import AGGREGATES, did_you_mean
from rlhf_jax.diagnostics.best_of_n import best_of_n, best_of_n_kl, best_of_n_kl_bound
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import one_line

POLICIES = ("sft", "ppo", "dpo", "online")
MOST = 100_000  # answers to one prompt
_FLAGS = ("json", "help")
_VALUED = ("n", "aggregate", "penalty", "policy", "prompts", "gold", "seed")
_OPTIONS = tuple(f"--{name}" for name in (*_VALUED, *_FLAGS))
_HELP = """The best of n answers of a run's policy by its reward model, and what that is worth, for every n' up to n.

usage: rlhf-jax best-of-n RUN --n=N [--aggregate=HOW] [--penalty=P] [--policy=sft|ppo|dpo|online]
                              [--prompts=K|FILE] [--gold=FILE.py:FUNCTION] [--seed=S] [--json]

  RUN               a run directory with a policy and a reward model, its own or its parents'
  --n=N             answers sampled to each prompt
  --aggregate=HOW   of the members of an ensemble: mean, worst (least), uncertainty (mean - P x variance) or
                    lower (mean - P x standard deviation); (mean)
  --penalty=P       of uncertainty and lower, at least 0 (1)
  --policy=STAGE    sft, ppo, dpo or online (sft)
  --prompts=K|FILE  the first K of the held-out prompts (all), or a JSONL file of rows {"prompt": "..."}
  --gold=FILE.py:FUNCTION  the true reward, as config.data.gold; one of the run's own has to be named here to be run
  --seed=S          of the sampling (0); the first n' answers are those that --n=n' would have sampled
  --json            print one JSON object, with every answer and all its scores, and nothing else

Printed for each n' (powers of 2, and n): the mean proxy reward, the aggregate chosen by; the mean gold reward where it
is known; both unbiased, from all N answers. KL: of best-of-n' from the policy, as if the N answers were all there are,
each as likely: right where many have equal rewards, too small where they all differ and n' is near N. KL bound:
log n' - (n' - 1) / n' nats, which the true KL does not exceed.

examples:
  rlhf-jax best-of-n runs/quickstart --n=16
  rlhf-jax best-of-n runs/ensemble --n=64 --aggregate=lower --penalty=2 --prompts=32 --json"""


@dataclasses.dataclass(frozen=True)
class Question:
    """What the command line asked for."""

    run: Path
    n: int
    aggregate: str
    penalty: float
    policy: str
    prompts: str
    gold: str
    seed: int
    as_json: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """Mean over prompts for one n'; ``gold`` is None where the truth is not known. ``kl`` and ``kl_bound`` in nats."""

    n: int
    proxy: float
    gold: float | None
    kl: float
    kl_bound: float


def main(words: Sequence[str]) -> None:
    """Answer the words after ``best-of-n``.

    Raises:
      UserError: one line, for anything that cannot be answered.
    """
    question = _question(words)
    if question is None:
        print(_HELP)
        return
    from rlhf_jax.build.best_of_n import answer_prompts  # here: it loads JAX
    from rlhf_jax.generation.best_of_n import best

    found = answer_prompts(
        question.run,
        policy=question.policy,
        prompts=question.prompts,
        n=question.n,
        seed=question.seed,
        gold=question.gold,
    )
    if found.unnamed:
        code = one_line(found.unnamed)
        print(f"no gold reward: {code} is code; if you trust it, add --gold={code}", file=sys.stderr)
    members = found.candidates.members
    if question.aggregate != "mean" and members.shape[-1] == 1:
        raise UserError(f"best-of-n: --aggregate: {question.aggregate} needs an ensemble, but {question.run} has none")
    scores = found.candidates.scores(question.aggregate, question.penalty).astype(np.float64)  # type: ignore[arg-type]
    rows = by_n(scores, found.gold)
    if question.as_json:
        chosen = best(scores)
        record = {
            "n": question.n,
            "aggregate": question.aggregate,
            "penalty": question.penalty,
            "policy": question.policy,
            "seed": question.seed,
            "by_n": [dataclasses.asdict(row) for row in rows],
            "prompts": [
                {
                    "prompt": record.prompt,
                    "prompt_type": record.prompt_type,
                    "best": int(chosen[place]),
                    "response": found.texts[place][chosen[place]],
                    "responses": found.texts[place],
                    "scores": scores[place].tolist(),
                    "members": members[place].tolist(),
                    "gold": None if found.gold is None else found.gold[place].tolist(),
                }
                for place, record in enumerate(found.records)
            ],
        }
        print(json.dumps(record, ensure_ascii=False, allow_nan=False))
    else:
        _print(question, rows, members, len(found.records))


def by_n(scores: Float[np.ndarray, "P N"], gold: Float[np.ndarray, "P N"] | None) -> list[Row]:
    """Proxy and gold of best-of-n' for n' = 1, 2, 4, ... and N, from all N answers to each prompt."""
    most = scores.shape[1]
    sizes = sorted({most, *(2**power for power in range(most.bit_length()))})

    def mean(values: Float[np.ndarray, "P N"], n: int) -> float:
        return float(np.mean([best_of_n(own, value, n) for own, value in zip(scores, values, strict=True)]))

    def kl(n: int) -> float:
        return float(np.mean([best_of_n_kl(own, np.full(most, 1.0 / most), n) for own in scores]))

    return [
        Row(n, mean(scores, n), None if gold is None else mean(gold, n), kl(n), best_of_n_kl_bound(n)) for n in sizes
    ]


# ------------------------------------------------------------------------- words to a question


def _question(words: Sequence[str]) -> Question | None:
    runs: list[str] = []
    options: dict[str, str] = {}
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            runs.append(word)
        elif name in _FLAGS and not equals:
            options[name] = ""
        elif name in _VALUED and text:
            options[name] = text
        elif name in (*_FLAGS, *_VALUED):
            raise UserError(f"best-of-n: {word}: must be --{name}{'=VALUE' if name in _VALUED else ''}")
        else:
            hint = did_you_mean(f"--{name}", _OPTIONS) or f"; the options are {', '.join(_OPTIONS)}"
            raise UserError(f"best-of-n: {word}: no such option{hint}")
    if "help" in options:
        return None
    if len(runs) != 1:
        raise UserError(f"best-of-n: name one run directory, not {len(runs)}; see rlhf-jax best-of-n --help")
    if "n" not in options:
        raise UserError("best-of-n: --n: missing; the number of answers to each prompt")
    aggregate = _choice(options, "aggregate", AGGREGATES)
    if "penalty" in options and aggregate in ("mean", "worst"):
        raise UserError(f"best-of-n: --penalty: would go unused: --aggregate is {aggregate}")
    return Question(
        run=Path(runs[0]),
        n=_whole(options, "n", 1, MOST),
        aggregate=aggregate,
        penalty=_penalty(options.get("penalty", "1")),
        policy=_choice(options, "policy", POLICIES),
        prompts=options.get("prompts", ""),
        gold=options.get("gold", ""),
        seed=_whole({"seed": "0", **options}, "seed", 0, 2**32 - 1),
        as_json="json" in options,
    )


def _choice(options: dict[str, str], name: str, allowed: Sequence[str]) -> str:
    """One of ``allowed``, the first if nothing was said."""
    value = options.get(name, allowed[0])
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise UserError(f"best-of-n: --{name}: {value!r} is not one of {', '.join(allowed)}{hint}")
    return value


def _whole(options: dict[str, str], name: str, least: int, most: int) -> int:
    text = options[name]
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f"best-of-n: --{name}: {text!r} is not a whole number from {least} to {most}")
    return int(text)


def _penalty(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise UserError(f"best-of-n: --penalty: {text!r} is not a number of at least 0")
    return value


# ------------------------------------------------------------------------- what is shown


def _print(question: Question, rows: Sequence[Row], members: Float[np.ndarray, "P N M"], prompts: int) -> None:
    console = Console(highlight=False)
    count = members.shape[-1]
    how = f", {question.aggregate} of {count} members" if count > 1 else ""
    console.print(f"best of n, {question.policy} policy, {prompts} prompts, seed {question.seed}{how}", soft_wrap=True)
    table = Table()
    columns = [
        "n",
        "proxy reward",
        *(["gold reward"] if rows[0].gold is not None else []),
        "KL, nats",
        "KL bound, nats",
    ]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        cells: list[Any] = [row.proxy, *([row.gold] if row.gold is not None else []), row.kl, row.kl_bound]
        table.add_row(str(row.n), *(f"{cell:.4f}" for cell in cells))
    console.print(table)
    if count > 1:
        console.print(f"spread of the members, mean over answers: {members.std(axis=-1).mean():.4f} in reward")
