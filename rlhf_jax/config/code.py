"""Code that a configuration names, ``FILE.py:CLASS`` or ``FILE.py:FUNCTION``. It runs because the command line or a
configuration in Python names it; JSON is data, and what JSON names is not run."""

from collections.abc import Iterable, Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.rules import OWN_CLASS, OWN_FUNCTION, leaves
from rlhf_jax.config.schema import default_config, rule_of
from rlhf_jax.config.text import from_json
from rlhf_jax.errors import UserError


def code_in(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Pairs of dotted key and ``FILE.py:NAME`` of all code that the configuration names."""
    for key, value in leaves(config):
        rule = rule_of(key)
        if isinstance(value, str) and ":" in value and rule and rule.text.endswith((OWN_CLASS, OWN_FUNCTION)):
            yield key, value


def check_code_is_named(config: ConfigDict, overrides: Iterable[tuple[str, str]]) -> None:
    """See that the command line names all code that a configuration in JSON does.

    Raises:
      UserError: it does not; says what to add.
    """
    named = dict(overrides)
    for key, value in code_in(config):
        if key not in named:
            raise UserError(
                f"config.{key}: {value} is code, and a configuration in JSON runs none; if you trust it, "
                f"add --config.{key}={value}"
            )


def from_run(text: str) -> tuple[ConfigDict, dict[str, str]]:
    """The configuration of a finished run from its ``config.json``, and the code that it names, by key.

    The configuration itself has forgotten that code where its place could be taken by the default; utilities keep their
    names, to be shown.

    Raises:
      UserError: the text is no configuration.
    """
    config = from_json(text)
    code, usual = dict(code_in(config)), default_config()
    for key in code:
        if key == "data.gold":
            config.data.gold = ""
        elif key == "ppo.kl.divergence":  # what else may stand here depends on it
            config.ppo.kl.update(usual.ppo.kl)
        elif key == "dpo.divergence":
            config.dpo.divergence = usual.dpo.divergence
    return config, code
