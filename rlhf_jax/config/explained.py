"""Every setting with all that is to be known of it, for ``--help`` and for the reference page."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from rlhf_jax.config.meanings import meanings
from rlhf_jax.config.rules import ANY, ANY_TEXT, leaves
from rlhf_jax.config.schema import default_config, rule_of
from rlhf_jax.config.units import unit_of

KINDS = {bool: "true or false", int: "integer", float: "number", str: "text", tuple: "texts"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key. ``allowed`` says in words which values the check lets pass, ``choices`` which there are to choose from.

    Combinations of settings that cannot be are not part of it.
    """

    key: str  # dotted, without config.
    default: Any
    kind: str
    unit: str
    allowed: str
    choices: tuple[str, ...]
    meaning: str


def settings() -> list[Setting]:
    """Every setting of ``default_config``, in the order in which the sections declare them."""
    values = dict(leaves(default_config()))
    return [_setting(key, values[key]) for key in meanings() if key in values]


def group_meaning(group: str) -> str:
    """What is said of a group of settings as a whole; empty where nothing is."""
    return meanings().get(group, "")


def _setting(key: str, default: Any) -> Setting:
    rule = rule_of(key)
    choices = tuple(rule.text.split("|")) if rule and "|" in rule.text else ()
    allowed = "" if rule in (None, ANY, ANY_TEXT) or choices else rule.text
    if isinstance(default, bool):
        choices, allowed = ("true", "false"), ""
    unit = unit_of(key) or "" if type(default) in (int, float) else ""
    return Setting(key, default, KINDS[type(default)], unit, allowed, choices, meanings()[key])


def text_of(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_group(key: str) -> bool:
    """Whether a dotted key (without ``config.``) is a group of settings."""
    node: Any = default_config()
    for part in key.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            return False
        node = node[part]
    return isinstance(node, ConfigDict)
