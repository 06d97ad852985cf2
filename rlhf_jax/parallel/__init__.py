"""Where arrays live, how one pure step is compiled for many devices, and how many processes make one run."""

from rlhf_jax.parallel.executors import Executor, Kind, MeshExecutor, PmapExecutor
from rlhf_jax.parallel.failures import end_with, failing_together
from rlhf_jax.parallel.processes import all_say, first_goes_first, is_first, join, to_host, wait_for_all
from rlhf_jax.parallel.reuse import ReusingExecutor
from rlhf_jax.parallel.stalls import Watch, watching
from rlhf_jax.parallel.stopping import Stop, heeding_others

__all__ = [
    "Executor",
    "Kind",
    "MeshExecutor",
    "PmapExecutor",
    "ReusingExecutor",
    "Stop",
    "Watch",
    "all_say",
    "end_with",
    "failing_together",
    "first_goes_first",
    "heeding_others",
    "is_first",
    "join",
    "to_host",
    "wait_for_all",
    "watching",
]
