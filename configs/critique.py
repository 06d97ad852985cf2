"""A reward model that writes a critique of each answer and scores it after having read that.

What it shows. The model learns from ranked lists whose answers were criticised in words (the embedded world knows what
is wrong with each), first after the given critiques, then also after its own; at evaluation it sees none.

Expected result. Held-out pair accuracy 0.82 (open 0.99, closed 0.56), 23 % of the critiques word for word as given and
47 % with the given verdict (seed 0): capitals are learnt later than vivid words. ``samples/critique`` shows critiques
beside rewards.
Wall time. Under three minutes on one CPU core.
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
