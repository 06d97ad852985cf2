"""A reward model that writes a critique of each answer and scores it after having read that.

What it shows. The model learns from ranked lists whose answers were criticised in words (the embedded world knows what
is wrong with each), first after the given critiques, then also after its own; at evaluation it sees none.

Expected result. Most critiques are written as given, and held-out pair accuracy is that of a good reward model on tiers
of equal quality; ``samples/critique`` shows critiques beside the rewards.
Wall time. About two minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/critique.py --workdir=runs/critique
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config, utility


def get_config() -> ConfigDict:
    """SFT, then the critique stage, on lists with ties."""
    config = default_config()
    config.stages = ("sft", "critique")

    config.data.ties = "kept"  # what a critique does not speak of, an answer's length, decides nothing
    config.reward.utility = utility("log_sigmoid", sigma=0.25)
    config.reward.bounded = "yes"

    config.critique.steps = 400
    config.critique.first_steps = 200
    config.critique.source = "mixed"
    return config
