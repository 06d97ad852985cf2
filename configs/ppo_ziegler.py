"""PPO with the details of Ziegler et al. 2019 (arXiv 1909.08593 and its released code), sentiment and descriptiveness.

What it shows. One network with a value head, episodes of one fixed length, a score at their end, whitened rewards, an
adaptive price of KL: each line names what it is in the source. The last block is scaled down to the embedded world.

Expected result. With the parents of ``quickstart``: KL steered towards 6 nats, gold reward up.
Wall time. A few minutes on two CPU cores.
Command.
  python -m rlhf_jax --config=configs/ppo_ziegler.py --workdir=runs/ppo_ziegler \
      --config.parents.sft=runs/quickstart --config.parents.reward=runs/quickstart
"""

from ml_collections import ConfigDict

from rlhf_jax.config import default_config


def get_config() -> ConfigDict:
    """Sources: [paper], [code] lm-human-preferences, [N] its reproduction with notes by Huang et al. 2023."""
    config = default_config()
    config.stages = ("ppo",)
    ppo = config.ppo

    # Sampling and what is scored.
    config.data.max_response = 24  # [paper, 3.1] continuations of 24 tokens
    ppo.temperature = 0.7  # [code] of sampling and of every log-probability, the reference's too
    ppo.episode = "fixed"  # [code] all 24 tokens are sampled and trained on
    ppo.truncate.token, ppo.truncate.after = ".", 16  # [code] read up to the first period at or after token 16
    ppo.missing_eos.rule, ppo.missing_eos.score = "replace", -1.0  # [code] without one the score is -1
    ppo.score_at = "end"  # [N] the score is added at the last of the 24 tokens
    ppo.normalize_reward = True  # [paper, 2.2] mean 0 and variance 1 on samples of the initial policy
    ppo.samples_per_prompt = 1

    # Rewards and advantages.
    ppo.kl.coefficient, ppo.kl.controller = 0.15, "adaptive"  # [code] beta at first
    ppo.kl.target, ppo.kl.horizon = 6.0, 10_000  # [paper, 2.2] nats; [code] episodes
    ppo.rewards.whiten = True  # [N] variance 1 over the batch, the mean left
    ppo.gamma, ppo.lambda_ = 1.0, 0.95  # [code]
    ppo.whiten_advantages = True  # [code] there over the batch of each process, here over the whole
    ppo.clip, ppo.value_clip, ppo.value_coefficient = 0.2, 0.2, 0.1  # [code]
    ppo.value.network, ppo.value.init = "shared", "zero"  # [code] a head on the policy, 0 at first

    # Optimizer.
    ppo.prompts_per_iteration, ppo.epochs, ppo.minibatches = 512, 4, 1  # [code] batch 512 in one minibatch
    ppo.iterations = 1_000_000 // 512  # [code] episodes
    ppo.optimizer.learning_rate = 1e-5  # [code]
    ppo.optimizer.schedule, ppo.optimizer.warmup = "linear", 0  # [code] down to 0
    ppo.optimizer.epsilon = 1e-5  # [code] Adam as in TensorFlow, whose epsilon counts a little differently [N]
    ppo.optimizer.beta2, ppo.optimizer.clip_norm = 0.999, 0.0  # [code] no clipping of gradients

    # Scaled down: models of 50 thousand parameters instead of 124 million learn faster and in fewer episodes, and the
    # answers of the embedded world have at most 20 tokens and end with the end of sequence, not with a period.
    config.data.max_response = 20
    ppo.truncate.token, ppo.truncate.after = "", 0
    ppo.prompts_per_iteration, ppo.iterations = 128, 60
    ppo.kl.horizon = 500  # at 10,000 the price could move by a factor of 1.2 at most in the 7,680 episodes of this run
    ppo.optimizer.learning_rate = 1e-3
    return config
