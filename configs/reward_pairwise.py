"""A reward model from pairs: the Bradley-Terry likelihood, log sigmoid of the gap of two rewards.

What it shows. The classical reward model as the n = 2 member of the ranked-list family; rewards are unbounded, since
log_sigmoid is defined on every gap.

Expected result. Held-out pair accuracy well above chance on both prompt types.
Wall time. About a minute on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/reward_pairwise.py --workdir=runs/pairwise
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """From scratch, so that no other run is needed; --config.reward.init=sft takes a parent instead."""
    config = default_config()
    config.stages = ("reward",)

    config.data.list_size = 2

    config.reward.init = "scratch"
    config.reward.batch_size = 32  # as many responses per update as 8 lists of 8
    config.reward.utility = utility("log_sigmoid", sigma=1.0)
    return config
