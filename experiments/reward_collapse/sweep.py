"""The settings: the paper's four utilities and its prompt-aware pair, on real texts and on the embedded world."""

PREFIXES = ("texts", "world_prefixes")  # sources whose lists are prefixes of one answer, as the paper's are
SOURCES = (*PREFIXES, "world")
SEEDS = (0, 1, 2)
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

# (source, utility) -> the utility whose reward model of the same seed it starts from; the others start from scratch.
# A linear utility pushes a response to the end of the scale as soon as it leans there, and leaves no slope to come back
# by: on the world the order has to be learned first.
STARTS = {("world", "linear"): "log_sigmoid", ("world", "prompt_aware"): "log_sigmoid"}

# id -> (source, utility, seed); what another setting starts from comes before it.
SETTINGS = {
    f"reward_collapse/{source}_{name}_seed{seed}": (source, name, seed)
    for source in SOURCES
    for seed in SEEDS
    for name in sorted(UTILITIES, key=lambda name: (source, name) in STARTS)
}
