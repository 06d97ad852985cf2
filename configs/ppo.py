"""PPO alone, against the reward model and from the policy of earlier runs.

What it shows. The proxy reward rises at a price in KL to the SFT policy; the gold reward tells how much of the rise
is real. ``--config.ppo.kl.coefficient`` moves along that trade.

Expected result. With the parents of ``quickstart``: gold reward up on open prompts, not down on closed ones.
Wall time. A few minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/ppo.py --workdir=runs/ppo \
      --config.parents.sft=runs/quickstart --config.parents.reward=runs/quickstart
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config


def get_config() -> ConfigDict:
    """The settings that are usually tuned; parents come from the command line."""
    config = default_config()
    config.stages = ("ppo",)

    config.ppo.iterations = 40
    config.ppo.prompts_per_iteration = 64
    config.ppo.samples_per_prompt = 2
    config.ppo.epochs = 4
    config.ppo.minibatches = 4
    config.ppo.clip = 0.2

    config.ppo.kl.coefficient = 0.05
    config.ppo.kl.controller = "fixed"  # "adaptive" holds config.ppo.kl.target nats per response

    config.ppo.optimizer.learning_rate = 3e-4
    config.ppo.value_learning_rate = 1e-3
    return config
