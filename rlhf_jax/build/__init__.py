"""The only place where a configuration becomes objects: specs, data, devices, and the tasks that the loop runs."""

from rlhf_jax.build.context import Context, check_sizes, inherit_model, make_context, make_executor
from rlhf_jax.build.plan import describe_plan, saved_bytes
from rlhf_jax.build.shared import Shared
from rlhf_jax.build.tasks import make_task

__all__ = [
    "Context",
    "Shared",
    "check_sizes",
    "describe_plan",
    "inherit_model",
    "make_context",
    "make_executor",
    "make_task",
    "saved_bytes",
]
