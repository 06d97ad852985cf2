"""Supervised fine-tuning alone: a policy that imitates the embedded world's answers, good and bad.

What it shows. The mean loss over response tokens falls to the entropy of the corpus; gold reward reaches the corpus's
own level and no more, because imitation does not know which answers are better.

Expected result. Closed prompts are answered about as often right as in the corpus (0.55); open answers hold few of
the vivid words that the gold reward asks for.
Wall time. About a minute on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/sft.py --workdir=runs/sft
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config


def get_config() -> ConfigDict:
    """The tiny model, packed rows, cosine schedule."""
    config = default_config()
    config.stages = ("sft",)

    config.sft.steps = 500
    config.sft.batch_size = 16
    config.sft.row_length = 64  # tokens: two or three demonstrations a row
    config.sft.optimizer.learning_rate = 3e-3
    return config
