"""Low-rank adapters: SFT of the whole model, then a reward model and PPO that train adapters and heads alone.

What it shows. A frozen model with adapters of rank 16 beside every kernel is reference policy and policy in one: PPO
holds two decoders instead of four, and moments of 40 % of their parameters. In the embedded world nothing is
pre-trained, so SFT, which here is the pre-training, trains everything.

Expected result. A reward model hardly behind that of the quickstart, pair accuracy 0.96 and W1 0.16; after PPO a
gold of 0.87 (open) and 0.77 (closed) at 2 nats, where whole models reach 0.95 and 0.93 at 3 (docs/lora.md).
Wall time. A few minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/lora.py --workdir=runs/lora
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """The quickstart's reward model and PPO, by adapters."""
    config = default_config()
    config.stages = ("sft", "reward", "ppo")

    config.reward.utility = utility("negative_power", gamma=0.5, epsilon=0.1)
    config.reward.utility_by_type.closed = utility("power", gamma=0.8, epsilon=1e-3)
    config.reward.balance_utilities = True

    config.lora.rank = 16
    config.lora.alpha = 32.0
    config.lora.targets = ("q", "k", "v", "o", "gate", "up", "down")
    config.lora.stages = ("reward", "ppo")

    config.reward.optimizer.learning_rate = 3e-3  # adapters bear larger steps than whole models
    config.ppo.optimizer.learning_rate = 1e-3
    config.ppo.value_learning_rate = 3e-3
    return config
