"""The settings: exact optima by seed, and PPO by utility and seed."""

SEEDS = (0, 1, 2)
EXACT_SEEDS = tuple(range(8))

# Utilities of the reward models that PPO follows.
PPO = {
    "even": {"name": "negative_power", "gamma": 1.0, "epsilon": 0.05},
    "two_points": {"name": "power", "gamma": 0.8, "epsilon": 0.01},
}
# The reward model of ``even`` with its logits multiplied: the very same ranking, other rewards.
SCALED = {"even_sharp": 4.0, "even_flat": 0.25}
ARMS = (*PPO, *SCALED)

# Limit laws of the exact part: the rewards are spread by them in the order of one and the same ranking model.
LAWS = {
    "power 0.5": ("power", {"gamma": 0.5}),
    "log": ("log", {}),
    "negative_power 1": ("negative_power", {"gamma": 1.0}),
    "Beta(5, 5)": ("quantile", {"a": 5.0, "b": 5.0}),
    "Beta(1, 4)": ("quantile", {"a": 1.0, "b": 4.0}),
    "Beta(4, 1)": ("quantile", {"a": 4.0, "b": 1.0}),
    "linear (ties)": ("linear", {}),
}
BETAS = (0.05, 0.1, 0.3, 1.0)  # reward per nat
KLS = (0.25, 0.5, 1.0, 2.0)  # nats, mean over prompts
BEST_OF = (4, 16)


# Every PPO run starts from the SFT run, and those of SCALED from the reward model of ``even``: these come first.
SETTINGS = {
    "policy_effect/exact": "the optimum on sampled answers, one ranking under many laws",
    "policy_effect/sft": "the policy that all PPO runs start from",
} | {f"policy_effect/{name}.{seed}": f"PPO after {name}, seed {seed}" for seed in SEEDS for name in ARMS}
