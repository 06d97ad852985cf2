"""A small listwise reward model on a file of real ranked lists; the utilities by prompt type come on the command line.

Command.
  python -m rlhf_jax --config=experiments/only_two_classes/real.py --workdir=runs/real --config.data.path=lists.jsonl
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """One block of width 32, from scratch; texts are cut at 96 tokens of a vocabulary of 512."""
    config = default_config()
    config.stages = ("reward",)

    config.data.format = "lists"
    config.data.max_prompt = 32
    config.data.max_response = 96
    config.data.validation_fraction = 0.3
    config.tokenizer.kind = "bpe"
    config.tokenizer.vocab_size = 512

    config.model.width = 32
    config.model.depth = 1
    config.model.mlp_width = 64

    config.reward.steps = 150
    config.reward.batch_size = 4
    config.reward.init = "scratch"
    config.reward.eval_every = 150
    config.reward.bounded = "yes"
    config.reward.utility = utility("log", epsilon=0.02)
    config.reward.balance_utilities = True
    config.reward.optimizer.learning_rate = 3e-3

    config.log.every = 50
    config.log.samples = 0
    config.log.tensorboard = False
    config.checkpoint.every = 1000
    return config
