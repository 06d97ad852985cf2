"""A reward model from ranked lists of 8 under one utility: the setting in which rewards collapse.

What it shows. With a forced total order and one utility for all prompts, the reward distribution depends on the
utility alone: open and closed prompts get the same one, though closed answers are only right or wrong.

Expected result. High held-out pair accuracy; Wasserstein-1 distance between the rewards of open and closed prompts
near 0.
Wall time. One to two minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/reward_listwise.py --workdir=runs/listwise
Another utility:
  python -m rlhf_jax --config=configs/reward_listwise.py:log --workdir=runs/listwise_log
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config(name: str = "negative_power") -> ConfigDict:
    """From scratch, under the utility ``name``."""
    config = default_config()
    config.stages = ("reward",)

    config.data.ties = "broken"  # "kept" ranks by quality alone and leaves equal answers uncompared
    config.data.list_size = 8

    config.reward.init = "scratch"
    config.reward.utility = utility(name, gamma=0.5, sigma=0.25, epsilon=0.1)
    config.reward.bounded = "yes"  # comparable distributions under every utility
    return config
