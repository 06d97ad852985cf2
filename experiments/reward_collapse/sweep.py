"""The settings: the paper's four utilities and its prompt-aware pair, on real texts and on the embedded world."""

SOURCES = ("texts", "world")
SEEDS = (0,)
EPSILON = 0.1  # of the paper's code, which shifts its utilities by it
SHIFTED = {"epsilon": EPSILON, "extension": "shift"}

# name -> the utility of prompts as (member of the family, its parameters), and that of closed ones if it is another.
UTILITIES = {
    "linear": (("linear", {}), None),
    "log": (("log", SHIFTED), None),
    "inverse": (("negative_power", {"gamma": 1.0, **SHIFTED}), None),
    "log_sigmoid": (("log_sigmoid", {"sigma": 0.25}), None),
    "prompt_aware": (("negative_power", {"gamma": 1.0, **SHIFTED}), ("linear", {})),
}
COMMON = tuple(name for name, (_, closed) in UTILITIES.items() if closed is None)

# id -> (source, utility, seed)
SETTINGS = {
    f"reward_collapse/{source}_{name}_seed{seed}": (source, name, seed)
    for source in SOURCES
    for name in UTILITIES
    for seed in SEEDS
}
