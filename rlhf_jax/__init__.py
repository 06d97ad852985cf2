"""Reinforcement learning from human feedback in JAX, with reward models trained from rankings under any utility."""

__version__ = "0.1.0"
