"""The whole vocabulary, put together from its sections, and its checks."""

import fnmatch
import functools
import math
import re
from typing import Any

from ml_collections import ConfigDict

from rlhf_jax.config import critique, dpo, general, guard, lora, online, optimizers, parents, ppo, reward, segments
from rlhf_jax.config.groups import utility
from rlhf_jax.config.names import STAGES
from rlhf_jax.config.rules import Rule, did_you_mean, leaves
from rlhf_jax.errors import UserError

SECTIONS = (general, guard, reward, critique, segments, ppo, lora, dpo, online)

# Key patterns and the rule of the values under them; the first match counts.
RULES: dict[str, Rule] = {pattern: rule for section in SECTIONS for pattern, rule in section.RULES.items()}
PROBLEMS = tuple(
    section.problems for section in (general, guard, optimizers, parents, ppo, reward, critique, lora, dpo, online)
)

_LOGIN = re.compile(r"://[^/\s?#]*@")  # who logs in stands in front of the host


def default_config() -> ConfigDict:
    """A tiny model on the embedded world, through all three classical stages; locked."""
    c = ConfigDict()
    for section in SECTIONS:
        section.add_defaults(c)
    return lock(c)


def lock(config: ConfigDict) -> ConfigDict:
    """Lock every key but leave ``reward.utility_by_type`` open to new prompt types, ``reward.annotator_weights`` to
    annotators; returns config.
    """
    config.lock()
    config.reward.utility_by_type.unlock()
    config.reward.annotator_weights.unlock()
    return config


@functools.cache
def rule_of(key: str) -> Rule | None:
    """The rule of a dotted key (without ``config.``), None for one whose every value is allowed."""
    return next((rule for pattern, rule in RULES.items() if fnmatch.fnmatch(key, pattern)), None)


def unknown_key(key: str) -> UserError:
    """The error of a dotted key (without ``config.``) that does not exist, naming the nearest that does."""
    known = default_config()
    parts = ["learning_rate" if part == "lr" else part for part in key.split(".")]
    by_type = parts[:2] == ["reward", "utility_by_type"] and len(parts) > 2
    known.reward.utility_by_type[(parts[2] if by_type else "") or "open"] = utility("log")
    names = [f"config.{name}" for name, _ in leaves(known)]
    names = [name for name in names if name.split(".")[-1] == parts[-1]] or names  # right word, wrong group
    return UserError(f"config.{key}: no such key{did_you_mean('.'.join(['config', *parts]), names)}")


def validate(config: ConfigDict) -> None:
    """Raise ``UserError`` for the first setting, or pair of settings, that no run could honour."""
    check_keys(config)
    for key, value in leaves(config):
        if any(
            _LOGIN.search(text) for text in (value if isinstance(value, tuple) else (value,)) if isinstance(text, str)
        ):
            raise UserError(
                f"config.{key}: an address with a name or a password in it; configurations are written down"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{key}: {value} is not a finite number")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"config.{key}: {value} is not an integer of 64 bits")
        if not all(map(_is_unicode, value if isinstance(value, tuple) else (value,))):
            raise UserError(f"config.{key}: {value!r} is not valid Unicode")
        rule = rule_of(key)
        if rule is not None and not rule.holds(value):
            hint = did_you_mean(value, rule.text.split("|")) if "|" in rule.text else ""
            raise UserError(f"config.{key}: {value!r} is not allowed, must be {_either(rule.text)}{hint}")
    _check_stages(config.stages)
    for problems in PROBLEMS:
        for key, text in problems(config):
            raise UserError(f"config.{key}: {text}")


def _is_unicode(value: Any) -> bool:
    """Whether a text can be written down; what is no text can."""
    return not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _either(text: str) -> str:
    return "one of " + ", ".join(text.split("|")) if "|" in text else text


def check_keys(config: ConfigDict) -> None:
    """Raise ``UserError`` unless config has exactly the keys of ``default_config``, with values of their types."""
    _check_keys(config, default_config(), "")


def _check_keys(config: ConfigDict, known: ConfigDict, prefix: str) -> None:
    for name in config:
        if name not in known:
            raise unknown_key(prefix + name)
    for name, default in known.items():
        key = prefix + name
        if name not in config:
            raise UserError(f"config.{key}: missing; start from rlhf_jax.config.default_config()")
        value = config[name]
        if key == "reward.utility_by_type" and isinstance(value, ConfigDict):
            for kind, entry in value.items():
                if not isinstance(entry, ConfigDict):
                    raise UserError(f"config.{key}.{kind}: {entry!r} is not a group of settings")
                _check_keys(entry, known.utility, f"{key}.{kind}.")
        elif key == "reward.annotator_weights" and isinstance(value, ConfigDict):
            for annotator, entry in value.items():
                if not isinstance(entry, float):
                    raise UserError(f"config.{key}.{annotator}: {entry!r} is not a number")
        elif type(value) is not type(default) or (
            isinstance(value, tuple) and not all(isinstance(one, str) for one in value)
        ):
            raise UserError(f"config.{key}: {value!r} is not {type_name(default)}")
        elif isinstance(default, ConfigDict):
            _check_keys(value, default, f"{key}.")


def type_name(value: Any) -> str:
    """The type of a setting in words, with its article."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return names.get(type(value), "a list of texts" if isinstance(value, tuple) else "a group of settings")


def _check_stages(stages: tuple[str, ...]) -> None:
    for stage in stages:
        if stage not in STAGES:
            hint = did_you_mean(str(stage), STAGES)
            raise UserError(f"config.stages: no stage {stage!r}, known are {', '.join(STAGES)}{hint}")
    if not stages or list(stages) != [stage for stage in STAGES if stage in stages]:
        raise UserError(f"config.stages: {stages} is not one or more of {', '.join(STAGES)}, in this order")
