"""The program's side: one SFT run, then a reward model under one utility and PPO against it."""

from ml_collections import ConfigDict

from experiments.policy_effect.sweep import PPO
from rlhf_jax.config import default_config, utility


def get_config(arg: str = "sft") -> ConfigDict:
    """``sft``: the policy that all start from. A name of ``sweep.PPO``: reward model and PPO under that utility."""
    config = default_config()
    config.log.tensorboard = False
    config.log.samples = 256  # every held-out answer is kept, for the analysis
    if arg == "sft":
        config.stages = ("sft",)
        return config
    config.stages = ("reward", "ppo")

    config.reward.utility = utility(**PPO[arg])
    config.reward.balance_utilities = True  # one learning rate for utilities of very different slopes
    config.reward.steps = 500
    config.reward.eval_every = 500
    config.checkpoint.every = 500

    config.ppo.iterations = 20
    config.ppo.prompts_per_iteration = 64
    config.ppo.kl.coefficient = 0.1  # the same for all
    config.checkpoint.every_iterations = 20
    return config
