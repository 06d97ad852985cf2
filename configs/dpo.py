"""Direct preference optimisation from the SFT policy of an earlier run: DPO, and with a name its relatives.

What it shows. The policy learns from ranked answers without a reward model in between. Its answers to held-out prompts
are measured as PPO's are (gold, KL to the SFT policy, length, entropy, and the reward of the parent's reward model,
which the training never sees), so that all of them stand in one table; docs/direct.md says what each loss assumes.

Expected result. ``dpo``: gold from 0.36 to 0.75 on open prompts, from 0.39 to 0.75 on closed ones, 2.6 nats from the
SFT policy. ``chi_po`` stays nearer (0.6 nats); ``simpo`` and ``dpo_free``, which know no reference, go 10 to 15 away.
Wall time. Less than a minute on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/dpo.py --workdir=runs/dpo \
      --config.parents.sft=runs/quickstart --config.parents.reward=runs/quickstart
The others by their names, ``--config=configs/dpo.py:NAME``: those of VARIANTS below.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from rlhf_jax.config import DIRECT_DIVERGENCES, default_config

# What each name changes in config.dpo.
VARIANTS: dict[str, Mapping[str, object]] = {
    "dpo": {},
    "cdpo": {"label_smoothing": 0.1},
    "rdpo": {"loss": "rdpo", "label_smoothing": 0.1},
    "ipo": {"loss": "ipo", "beta": 0.1},  # gaps of 5 nats
    "ipo_mean": {"loss": "ipo", "beta": 2.0, "length_normalized": True},  # of a quarter of a nat per token
    "hinge": {"loss": "hinge"},
    "kto": {"loss": "kto"},
    "kto_unpaired": {"loss": "kto"},
    "orpo": {"loss": "orpo", "reference": "none", "beta": 0.1, "lambda_": 1.0},
    "simpo": {"loss": "simpo", "reference": "none", "beta": 2.0, "gamma": 1.0},
    "rpo": {"nll": 0.05},
    "chi_po": {"loss": "chi_po"},
    "plackett_luce": {"lists": "plackett_luce"},
    "dpo_free": {"reference": "none"},
    "rdpo_free": {"loss": "rdpo", "label_smoothing": 0.1, "reference": "none"},
    "ipo_free": {"loss": "ipo", "beta": 0.2, "reference": "none"},
    "hinge_free": {"loss": "hinge", "reference": "none"},
    **{f"f_dpo_{name}": {"loss": "f_dpo", "divergence": name} for name in DIRECT_DIVERGENCES},
}


def get_config(name: str = "dpo") -> ConfigDict:
    """The loss ``name`` on lists of eight whose equally good answers are tied."""
    config = default_config()
    config.stages = ("dpo",)

    config.data.ties = "kept"  # a forced order of equal answers would teach noise
    config.data.list_size = 8

    config.dpo.steps, config.dpo.eval_every = 150, 75
    config.dpo.batch_size = 8
    config.dpo.beta = 0.5
    config.dpo.optimizer.learning_rate = 1e-4
    config.dpo.update(VARIANTS[name])
    if name == "kto_unpaired":  # each answer by itself, good or bad
        config.data.ties, config.data.feedback, config.data.noise = "broken", "labels", 0.25
    return config
