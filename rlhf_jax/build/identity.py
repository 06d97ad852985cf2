"""What the checkpoints of a stage were made by, so that a run goes on from what is its own."""

from typing import Any

from ml_collections import ConfigDict

from rlhf_jax.build.context import Context, made_by
from rlhf_jax.config import ITERATED, MEANS, default_config, leaves
from rlhf_jax.data.prepared import records_sha256
from rlhf_jax.data.records import Prompt, Record

# A run may be continued with these changed: they do not touch what is computed, but for rounding.
FREE_SECTIONS = (
    *("log.", "checkpoint.", "parallel.", "guard.max_", "ppo.rollout_rows", "ppo.unpad"),
    *(f"model.{key}" for key in MEANS),
    *(f"{stage}.accumulate" for stage in ("sft", "reward", "dpo", "ppo")),
)


def settings(config: ConfigDict) -> dict[str, Any]:
    """The settings, by dotted key, that a run may not change on its way."""
    return {key: value for key, value in leaves(config) if not key.startswith(FREE_SECTIONS)}


def stage_identity(context: Context, stage: str) -> dict[str, Any]:
    """Stage, tokenizer, the records that it trains on, the checkpoints that it was made from (``make_task`` has read
    them), and the settings that are not at their defaults: one that a later version adds is no difference.
    """
    config, data, usual = context.config, context.data, settings(default_config())
    records: list[Record | tuple[Prompt, str]] = []
    if stage == "sft" or (stage == "ppo" and config.ppo.pretraining.coefficient):
        records += data.sft
    if stage != "sft":
        records += data.prompts if stage in ITERATED else data.lists
    return {
        **made_by(context, stage),
        "data": records_sha256(records),
        "parents": {name: list(marks) for name, marks in context.read.items()},
        "config": {key: value for key, value in settings(config).items() if key not in usual or usual[key] != value},
    }
