"""What the runs of one process share: compiled programs, and data that several of them read."""

from collections.abc import Callable

from ml_collections import ConfigDict

from rlhf_jax.build.data import Data
from rlhf_jax.parallel import Executor, ReusingExecutor


class Shared:
    """Kept by whoever makes many runs in one process; nothing of a run can be told from one that shares nothing."""

    def __init__(self) -> None:
        self._executors: dict[str, Executor] = {}
        self._data: dict[str, Data] = {}

    def executor(self, parallel: ConfigDict, make: Callable[[ConfigDict], Executor]) -> Executor:
        """The compiler of steps for ``config.parallel``."""
        return self._executors.setdefault(parallel.to_json(), ReusingExecutor(make(parallel)))

    def data(self, config: ConfigDict, read: Callable[[], Data]) -> Data:
        """What ``read`` reads, but records of the embedded world only once: they depend on ``config.data`` alone."""
        if config.data.path:  # rows of a file may be rejected, and each run keeps its own
            return read()
        key = config.data.to_json()
        if key not in self._data:
            self._data = {key: read()}  # of one setting at a time: a sweep over data should not fill the memory
        return self._data[key]
