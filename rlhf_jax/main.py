"""The program: a command line to a run directory, or to one of the small commands."""

import importlib
import os
import re
import sys
from collections.abc import Sequence

from rlhf_jax.commands import NAMES
from rlhf_jax.config import did_you_mean
from rlhf_jax.errors import BadNumbers, UserError, exit_code
from rlhf_jax.flags import Launch, parse
from rlhf_jax.foreign import one_line
from rlhf_jax.resources import keep_memory

RUN = "rlhf-jax --config=FILE.py --workdir=DIR"


def main(argv: Sequence[str] | None = None) -> None:
    """Train (or with ``--dry_run`` plan) what the command line asks for.

    Raises:
      SystemExit: with 2 on what the user must mend (75 where a disk failed that may be there again), with 65 on numbers
        gone bad; with 0 where whoever reads what is printed has seen enough, but with 1 if that is a run's, which has
        not come to its end.
    """
    if argv is None:  # the process is ours
        keep_memory()
    words, trains = ["--help" if word == "-h" else word for word in (sys.argv[1:] if argv is None else argv)], False
    try:
        if words[:1] == ["--help"] and words[1:2] and words[1] in NAMES:
            words = [words[1], "--help"]
        if words and words[0] in NAMES:
            # Imported here: most of them need JAX, and none needs another.
            importlib.import_module(f"rlhf_jax.commands.{words[0].replace('-', '_')}").main(words[1:])
        elif words and re.fullmatch(r"[a-z][a-z-]*", words[0]) and words[0] not in ("config", "workdir", "help"):
            hint = did_you_mean(words[0], NAMES) or f"; a run is started by options alone: {RUN}"
            raise UserError(f"{words[0]}: no such command{hint}")
        else:
            launch = parse(words)
            trains = not launch.dry_run
            _dispatch(launch)
        sys.stdout.flush()
    except (UserError, BadNumbers) as error:
        print(f"rlhf-jax: error: {one_line(str(error))}", file=sys.stderr)
        raise SystemExit(exit_code(error)) from None
    except BrokenPipeError:
        # Whoever read what is printed is gone, as head(1) is. What is still buffered must go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if trains:
            print("rlhf-jax: error: nobody reads what is printed any more; the same command goes on", file=sys.stderr)
        raise SystemExit(int(trains)) from None


def _dispatch(launch: Launch) -> None:
    # Imported here: a mistake on the command line is told before JAX is loaded.
    from rlhf_jax.run import dry_run, train

    (dry_run if launch.dry_run else train)(launch)
