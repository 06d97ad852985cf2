"""The program on the embedded world under one utility for all prompts, equally good answers ordered or left as ties.

Command.
  python -m rlhf_jax --config=experiments/partial_orders/program.py:kept --workdir=runs/kept
"""

from ml_collections import ConfigDict

from experiments.partial_orders.sweep import PROGRAM_STEPS
from rlhf_jax.config import default_config, utility


def get_config(ties: str = "kept") -> ConfigDict:
    """A reward model from scratch; ``ties``: kept (two tiers for closed prompts) or broken (a forced total order)."""
    config = default_config()
    config.stages = ("reward",)

    config.data.ties = ties
    config.data.list_size = 8

    config.model.width = 48

    config.reward.steps = PROGRAM_STEPS
    config.reward.init = "scratch"
    config.reward.eval_every = PROGRAM_STEPS
    config.reward.utility = utility("negative_power", gamma=0.5, epsilon=0.1)
    config.reward.optimizer.learning_rate = 2e-3

    config.log.every = 100
    config.log.samples = 0
    config.log.tensorboard = False
    config.checkpoint.every = 1000
    return config
