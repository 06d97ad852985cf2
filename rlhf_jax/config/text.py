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
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"config: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError("config: not a JSON object")
    config = default_config()
    _merge(config, values, "")
    return config


def _merge(config: ConfigDict, values: dict[str, Any], prefix: str) -> None:
    for name in sorted(values):  # so that utility comes before utility_by_type, which copies it
        key, value = prefix + name, values[name]
        dotted = next((one for one in value if "." in one), "") if isinstance(value, dict) else ""
        if dotted:
            raise UserError(f"config.{key}: {dotted!r} has a dot, which no key may have")
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
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise UserError(f"config.{key}: {value!r} is not {type_name(default)}")
        config[name] = value
