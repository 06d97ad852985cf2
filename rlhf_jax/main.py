"""The program: a command line to a run directory."""

import sys
from collections.abc import Sequence

from rlhf_jax.errors import USER_ERROR, UserError
from rlhf_jax.flags import Launch, parse


def main(argv: Sequence[str] | None = None) -> None:
    """Train (or with ``--dry_run`` plan) what the command line asks for; exits with 2 on what the user must mend."""
    try:
        launch = parse(sys.argv[1:] if argv is None else argv)
        _dispatch(launch)
    except UserError as error:
        print(f"rlhf-jax: error: {error}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None


def _dispatch(launch: Launch) -> None:
    # Imported here: a mistake on the command line is told before JAX is loaded.
    from rlhf_jax.run import dry_run, train

    (dry_run if launch.dry_run else train)(launch)
