"""Which checkpoints a stage starts from."""

import os
from collections.abc import Iterator

from ml_collections import ConfigDict


def needed_parents(c: ConfigDict, stage: str) -> tuple[str, ...]:
    """The keys of config.parents whose checkpoints a stage starts from, if the run does not make them itself."""
    section = stage if stage in ("critique", "segments") else "reward"
    start = {"sft": ("sft",), "reward": ("reward_start",)}.get(c[section].init, ())
    judged = ("sft", "reward") if c.ppo.dense.sequence else ("sft",)
    return {"sft": (), "ppo": judged, "dpo": ("sft",), "online": ("sft", "reward")}.get(stage, start)


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Parents that are missing, or would go unused."""
    stages = c.stages
    for stage in stages:
        section = stage if stage in ("critique", "segments") else "reward"
        for parent in needed_parents(c, stage):
            if parent not in stages and not c.parents[parent]:
                text = f"empty, but {stage} starts from a checkpoint of {parent.removesuffix('_start')}"
                add = "" if parent == "reward_start" else f" or add {parent} to config.stages"
                scratch = "" if stage in ("ppo", "dpo", "online") else f" or set config.{section}.init=scratch"
                yield f"parents.{parent}", f"{text}; give a run directory{add}{scratch}"
    if c.parents.reward_start and (c.reward.init != "reward" or not {"reward", "reward_common"} & set(stages)):
        yield "parents.reward_start", "would go unused: no stage starts from it; set config.reward.init=reward"
    for name, path in c.parents.items():
        if path and name in stages:
            yield f"parents.{name}", f"{path} would go unused: config.stages makes its own {name}"
        if path and "://" not in path and not os.path.isdir(path):
            yield f"parents.{name}", f"no such run directory: {path}"
