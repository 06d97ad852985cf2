"""PPO with the details of Huang et al. 2024, The N+ Implementation Details of RLHF with PPO (arXiv 2403.17031).

What it shows. The setting of TL;DR summarisation: a value network that starts as the reward model, responses cut at
their end of sequence, a score one slot past it, a fixed price of KL: each line names what it is in the source. The last
block is scaled down to the embedded world.

Expected result. With the parents of ``quickstart``: gold reward up on open prompts.
Wall time. A few minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/ppo_nplus.py --workdir=runs/ppo_nplus \
      --config.parents.sft=runs/quickstart --config.parents.reward=runs/quickstart
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config


def get_config() -> ConfigDict:
    """Sources: [paper], [code] summarize_from_feedback_details."""
    config = default_config()
    config.stages = ("ppo",)
    ppo = config.ppo

    # Sampling and what is scored.
    config.data.max_response = 53  # [code] tokens sampled, the summary cut at its first end of sequence
    ppo.temperature = 0.7  # [code] of sampling and of every log-probability
    ppo.episode = "until_eos"  # [code] tokens past the end are padding and leave the loss
    ppo.missing_eos.rule, ppo.missing_eos.score = "replace", -1.0  # [paper] the EOS trick
    ppo.score_at = "after"  # [code] at the slot past the end, whose value is learned too
    ppo.rewards.centre = True  # [paper] the reward model less a bias; there the mean over reference summaries
    ppo.samples_per_prompt = 1

    # Rewards and advantages.
    ppo.kl.coefficient, ppo.kl.controller = 0.05, "fixed"  # [paper]
    ppo.rewards.whiten = False  # [code] off by default
    ppo.gamma, ppo.lambda_ = 1.0, 0.95  # [paper]
    ppo.whiten_advantages = True  # [paper] here over the whole batch, padding left out
    ppo.clip, ppo.value_clip, ppo.value_coefficient = 0.2, 0.2, 0.1  # [paper]
    ppo.value.network, ppo.value.init = "separate", "reward"  # [paper]

    # Optimizer.
    ppo.prompts_per_iteration, ppo.epochs, ppo.minibatches = 512, 4, 1  # [paper]
    ppo.iterations = 1_000_000 // 512  # [paper] episodes
    ppo.optimizer.learning_rate = ppo.value_learning_rate = 3e-6  # [paper] one rate for both networks
    ppo.optimizer.schedule, ppo.optimizer.warmup = "linear", 0  # [paper]
    ppo.optimizer.epsilon = 1e-5  # [paper] AdamW
    ppo.optimizer.beta2, ppo.optimizer.weight_decay = 0.999, 0.01  # PyTorch's defaults, which [code] leaves
    ppo.optimizer.clip_norm = 0.0  # [code] no clipping of gradients

    # Scaled down: models of 50 thousand parameters instead of 1 to 7 billion learn faster, in fewer episodes, and the
    # answers of the embedded world have at most 20 tokens.
    config.data.max_response = 20
    ppo.prompts_per_iteration, ppo.iterations = 128, 60
    ppo.optimizer.learning_rate = ppo.value_learning_rate = 1e-3
    return config
