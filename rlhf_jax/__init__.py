"""Reinforcement learning from human feedback in JAX, with reward models trained from rankings under any utility."""

import time

__version__ = "0.1.0"
STARTED = time.perf_counter()  # when the program began, but for the interpreter
