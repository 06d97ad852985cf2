"""Every setting of a run: its default, its unit, what it does, and which values are refused.

``default_config()`` is the whole vocabulary; the files of ``configs/`` start from it and the command line overrides it.
``validate`` raises ``UserError`` with one line that begins with the full key, before any device is touched. Each
section of settings has a file of its own, with its defaults, its rules and the combinations that cannot be.
"""

from rlhf_jax.config.code import check_code_is_named, code_in, from_run
from rlhf_jax.config.groups import optimizer, utility
from rlhf_jax.config.lora import adapter_problems
from rlhf_jax.config.names import (
    ADVANTAGES,
    AGGREGATES,
    DATA_FORMATS,
    DIRECT_DIVERGENCES,
    DIRECT_LOSSES,
    DIVERGENCES,
    FEEDBACK,
    ITERATED,
    LEVELS,
    MEANS,
    OWN,
    QUANTILE_EPSILON,
    STAGES,
    UNBOUNDED,
    UTILITIES,
    WORLD_PROMPT_TYPES,
)
from rlhf_jax.config.parents import needed_parents
from rlhf_jax.config.ppo import aggregate_problems
from rlhf_jax.config.rules import did_you_mean, kind_and_level, leaves
from rlhf_jax.config.schema import check_keys, default_config, lock, rule_of, type_name, unknown_key, validate
from rlhf_jax.config.text import from_json, to_json

__all__ = [
    "ADVANTAGES",
    "AGGREGATES",
    "DATA_FORMATS",
    "DIRECT_DIVERGENCES",
    "DIRECT_LOSSES",
    "DIVERGENCES",
    "FEEDBACK",
    "ITERATED",
    "LEVELS",
    "MEANS",
    "OWN",
    "QUANTILE_EPSILON",
    "STAGES",
    "UNBOUNDED",
    "UTILITIES",
    "WORLD_PROMPT_TYPES",
    "adapter_problems",
    "aggregate_problems",
    "check_code_is_named",
    "check_keys",
    "code_in",
    "default_config",
    "did_you_mean",
    "from_json",
    "from_run",
    "kind_and_level",
    "leaves",
    "lock",
    "needed_parents",
    "optimizer",
    "rule_of",
    "to_json",
    "type_name",
    "unknown_key",
    "utility",
    "validate",
]
