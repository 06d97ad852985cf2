"""PPO alone, or a policy gradient without a value model, against the reward model and from the policy of earlier runs.

What it shows. The proxy reward rises at a price in KL to the SFT policy; the gold reward tells how much of the rise
is real. ``--config.ppo.kl.coefficient`` moves along that trade. The argument names how advantages are estimated, or
which divergence from the SFT policy is priced; docs/policy_gradients.md has what each is.

Expected result. With the parents of ``quickstart``: gold reward up on open prompts, not down on closed ones.
Wall time. A few minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/ppo.py --workdir=runs/ppo \
      --config.parents.sft=runs/quickstart --config.parents.reward=runs/quickstart
Others: ppo.py:NAME, where NAME is one of reinforce, rloo, grpo, dr_grpo, reinforce_pp, or of forward_kl,
jensen_shannon, alpha, chi_squared, half_chi_squared, chi_po, hellinger, total_variation.
"""

from ml_collections import ConfigDict

from rlhf_jax.config import DIVERGENCES, default_config


def get_config(name: str = "gae") -> ConfigDict:
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

    if name in DIVERGENCES:
        config.ppo.kl.divergence = name  # k1 in the reward: the right gradient for each of them
    else:
        config.ppo.advantage = name
    if name in ("rloo", "grpo", "dr_grpo"):  # the same number of episodes, more of them to a prompt
        config.ppo.prompts_per_iteration, config.ppo.samples_per_prompt = 16, 8
    if name == "grpo":  # Shao et al. 2024: k3 in the loss at 0.04, means over each response first
        config.ppo.loss_mean = "sequences"
        config.ppo.kl.placement, config.ppo.kl.estimator, config.ppo.kl.coefficient = "loss", "k3", 0.04
    if name == "dr_grpo":  # Liu et al. 2025: sums over a response by a constant, no price of divergence
        config.ppo.loss_mean, config.ppo.kl.coefficient = "constant", 0.0
    return config
