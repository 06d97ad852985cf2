"""The words after a command as named values: what the commands with one place and many options share."""

from collections.abc import Sequence

from rlhf_jax.config import did_you_mean
from rlhf_jax.errors import UserError


def read_options(
    command: str, words: Sequence[str], names: Sequence[str], *, place: tuple[str, str], switches: Sequence[str] = ()
) -> dict[str, str | bool]:
    """``--NAME=VALUE`` of ``names``, ``--NAME`` alone of ``switches`` (True), and the one word without dashes under
    ``place``, which is its name and what it is called to users.

    Raises:
      UserError: an unknown option, a missing or superfluous value, or one given twice.
    """
    values: dict[str, str | bool] = {}
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            name, text = place[0], word
        elif name not in (*names, *switches):
            options = [f"--{known}" for known in (*names, *switches)]
            hint = did_you_mean(f"--{name}", options) or f"; the options are {', '.join(options)}"
            raise UserError(f"{command}: {word}: no such option{hint}")
        elif name in switches and equals:
            raise UserError(f"{command}: {word}: must be --{name}")
        elif name not in switches and not text:
            raise UserError(f"{command}: --{name}: no value given, expected --{name}=VALUE")
        if name in values:
            raise UserError(f"{command}: {word}: a second {place[1] if name == place[0] else '--' + name}")
        values[name] = name in switches or text
    return values
