"""The whole story on the embedded world: SFT, a prompt-aware and a common reward model, PPO.

What it shows. Annotators who must rank everything order even equally right answers, so under one utility the rewards
of closed prompts (an answer is right or wrong) spread as those of open ones do. With its own utility for closed
prompts the reward model keeps them apart: near 0 or near 1. PPO then raises the true quality of open answers without
losing the closed ones.

Expected result. The reward distributions of open and closed prompts lie far apart under ``reward`` and together under
``reward_common``; after PPO the gold reward is higher on open prompts and not lower on closed ones.
Wall time. A few minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """The default tiny model through all four stages."""
    config = default_config()
    config.stages = ("sft", "reward", "reward_common", "ppo")

    config.data.ties = "broken"  # a forced total order: the setting in which rewards collapse
    config.data.list_size = 8

    config.reward.utility = utility("negative_power", gamma=0.5, epsilon=0.1)  # spreads the rewards of open prompts
    config.reward.utility_by_type.closed = utility("power", gamma=0.8, epsilon=1e-3)  # drives them to 0 and 1
    config.reward.balance_utilities = True  # or the steeper utility of the open prompts would drown the other
    return config
