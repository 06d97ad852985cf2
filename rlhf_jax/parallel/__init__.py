"""Where arrays live and how one pure step is compiled for many devices."""

from rlhf_jax.parallel.executors import Executor, MeshExecutor, PmapExecutor

__all__ = ["Executor", "MeshExecutor", "PmapExecutor"]
