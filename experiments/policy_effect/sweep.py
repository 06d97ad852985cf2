"""The settings: exact optima by seed, and PPO by utility and seed."""

SEEDS = (0, 1, 2)
EXACT_SEEDS = tuple(range(8))

# Utilities of the reward models that PPO follows: to two points, even, and many low rewards with few high ones.
PPO = {
    "two_points": {"name": "power", "gamma": 0.8, "epsilon": 0.01},
    "even": {"name": "negative_power", "gamma": 1.0, "epsilon": 0.05},
    "few_high": {"name": "quantile", "a": 1.0, "b": 4.0, "epsilon": 0.01},
}

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

# The SFT run comes first: every PPO run starts from it.
SETTINGS = {
    "policy_effect/exact": "the optimum on sampled answers, one ranking under many laws",
    "policy_effect/sft": "the policy that all PPO runs start from",
} | {
    f"policy_effect/{name}.{seed}": f"reward model and PPO under {name}, seed {seed}" for seed in SEEDS for name in PPO
}
