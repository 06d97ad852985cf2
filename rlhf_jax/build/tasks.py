"""Stages by name."""

from rlhf_jax.build.context import Context
from rlhf_jax.build.critique import critique_task
from rlhf_jax.build.dpo import dpo_task
from rlhf_jax.build.online import online_task
from rlhf_jax.build.ppo import ppo_task
from rlhf_jax.build.reward import reward_task
from rlhf_jax.build.segments import segments_task
from rlhf_jax.build.sft import sft_task
from rlhf_jax.loop import Task


def make_task(context: Context, stage: str) -> Task:
    """The task of a stage; its parents must have ended. ``context.read`` then has what it starts from."""
    context.read.clear()
    if stage == "sft":
        return sft_task(context)
    if stage == "segments":
        return segments_task(context)
    if stage == "ppo":
        return ppo_task(context)
    if stage == "critique":
        return critique_task(context)
    if stage == "dpo":
        return dpo_task(context)
    if stage == "online":
        return online_task(context)
    return reward_task(context, stage)
