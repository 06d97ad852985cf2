"""A configuration as JSON, both ways."""

import copy
import json
from typing import Any

from ml_collections import ConfigDict

from rlhf_jax.config.schema import default_config, type_name, unknown_key
from rlhf_jax.errors import UserError


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON text, keys in alphabetical order."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config of ``to_json``'s text; absent keys take their defaults, unknown keys are refused."""
    try:
        values = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"config: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError("config: not a JSON object")
    _check_dots(values, "config")
    config = default_config()
    _merge(config, values, "")
    return config


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise UserError(f"config: {next(key for key in keys if keys.count(key) > 1)}: given twice in one group")
    return found


def _check_dots(values: dict[str, Any], group: str) -> None:
    dotted = next((name for name in values if "." in name), "")
    if dotted:
        raise UserError(f"{group}: {dotted!r} has a dot, which no key may have")


def _merge(config: ConfigDict, values: dict[str, Any], prefix: str) -> None:
    for name in sorted(values):  # so that utility comes before utility_by_type, which copies it
        key, value = prefix + name, values[name]
        if isinstance(value, dict):
            _check_dots(value, f"config.{key}")
        if key == "reward.utility_by_type" and isinstance(value, dict):
            for kind in value:
                config[name][kind] = copy.deepcopy(config.utility)
        if key == "reward.annotator_weights" and isinstance(value, dict):
            config[name].update(dict.fromkeys(value, 1.0))
        if name not in config:
            raise unknown_key(key)
        default = config[name]
        if isinstance(default, ConfigDict) and isinstance(value, dict):
            _merge(default, value, f"{key}.")
            continue
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and type(value) is int and abs(value) < 2**63:
            value = float(value)
        if type(value) is not type(default):
            raise UserError(f"config.{key}: {value!r} is not {type_name(default)}")
        config[name] = value
