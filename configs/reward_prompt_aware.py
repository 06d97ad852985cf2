"""A reward model from ranked lists of 8 under a utility per prompt type: the cure of reward collapse.

What it shows. The same lists as ``reward_listwise``, but closed prompts are trained under x^0.8, whose best
distribution lies near 0 and 1, and open prompts under -x^-0.5, whose best distribution is spread.

Expected result. Pair accuracy of open prompts as high as under one utility; the reward distributions of open and
closed prompts clearly apart.
Wall time. One to two minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/reward_prompt_aware.py --workdir=runs/prompt_aware
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """From scratch, two utilities; --config.reward.utility_by_type.TYPE.name=... adds or changes one."""
    config = default_config()
    config.stages = ("reward",)

    config.data.ties = "broken"
    config.data.list_size = 8

    config.reward.init = "scratch"
    config.reward.utility = utility("negative_power", gamma=0.5, epsilon=0.1)
    config.reward.utility_by_type.closed = utility("power", gamma=0.8, epsilon=1e-3)
    config.reward.balance_utilities = True
    return config
