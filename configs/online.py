"""Online preference learning: the policy answers, the reward model ranks, and the ranking trains the policy.

What it shows. ``dpo``: a direct preference loss on the policy's own answers, against the SFT policy; ``iterated``: the
reference becomes the policy every ten iterations; ``expert``: only the likelihood of the best of eight answers (expert
iteration, which distils best-of-n). Held-out figures are those of PPO's evaluation.

Expected result. At the KL of offline DPO more gold, for the answers compared are the policy's own: ``dpo`` 0.90 on
open and 0.79 on closed prompts at 2.7 nats, ``iterated`` 0.92 and 0.78 at 3.3, ``expert`` 0.90 and 0.79 at 3.2.
Wall time. About a minute on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/online.py --workdir=runs/online_dpo \
      --config.parents.sft=runs/quickstart --config.parents.reward=runs/quickstart
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config


def get_config(name: str = "dpo") -> ConfigDict:
    """One of dpo, iterated and expert."""
    config = default_config()
    config.stages = ("online",)

    config.online.iterations, config.online.eval_every = 30, 15
    config.online.prompts_per_iteration = 32
    config.online.samples_per_prompt = 4
    config.online.epochs, config.online.minibatches = 2, 2
    config.online.optimizer.learning_rate = 3e-4
    config.dpo.beta = 0.1
    if name == "iterated":
        config.online.reference_every = 10
    if name == "expert":
        config.online.method, config.online.samples_per_prompt = "expert", 8
    return config
