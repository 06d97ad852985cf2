"""The program: a command line to a run directory, or to one of the small commands."""

import sys
from collections.abc import Callable, Sequence

from rlhf_jax.config import did_you_mean
from rlhf_jax.errors import USER_ERROR, UserError
from rlhf_jax.flags import Launch, parse

Command = Callable[[Sequence[str]], None]


def _theory(words: Sequence[str]) -> None:
    from rlhf_jax.theory_command import theory

    theory(words)


def _collapse(words: Sequence[str]) -> None:
    from rlhf_jax.collapse_command import collapse

    collapse(words)


def _prepare(words: Sequence[str]) -> None:
    from rlhf_jax.prepare_command import prepare

    prepare(words)


def _export(words: Sequence[str]) -> None:
    from rlhf_jax.export_command import export

    export(words)


def _evaluate(words: Sequence[str]) -> None:
    from rlhf_jax.evaluate_command import evaluate

    evaluate(words)


def _best_of_n(words: Sequence[str]) -> None:
    from rlhf_jax.best_of_n_command import best_of_n_command

    best_of_n_command(words)


def _labels(words: Sequence[str]) -> None:
    from rlhf_jax.labels_command import labels

    labels(words)


# The first word of a command line -> what is done with the words after it. Each imports its module when it is called.
COMMANDS: dict[str, Command] = {
    "theory": _theory,
    "collapse": _collapse,
    "best-of-n": _best_of_n,
    "labels": _labels,
    "evaluate": _evaluate,
    "prepare": _prepare,
    "export": _export,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train (or with ``--dry_run`` plan) what the command line asks for; exits with 2 on what the user must mend."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in COMMANDS:
            COMMANDS[words[0]](words[1:])
        elif words and not words[0].startswith("-") and (hint := did_you_mean(words[0], COMMANDS)):
            raise UserError(f"{words[0]}: no such command{hint}")
        else:
            _dispatch(parse(words))
    except UserError as error:
        print(f"rlhf-jax: error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None


def _dispatch(launch: Launch) -> None:
    # Imported here: a mistake on the command line is told before JAX is loaded.
    from rlhf_jax.run import dry_run, train

    (dry_run if launch.dry_run else train)(launch)
