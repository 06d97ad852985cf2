"""The names that settings choose from."""

# In the order in which they may run.
STAGES = ("sft", "reward", "reward_common", "segments", "ppo", "critique", "dpo", "online")
ITERATED = ("ppo", "online")  # the stages whose steps are iterations: sample, then train on what was sampled
ADAPTABLE = ("sft", "reward", "reward_common", "dpo", "online", "ppo")  # the stages that can train by low-rank adapters
KERNELS = ("q", "k", "v", "o", "gate", "up", "down")  # of a layer
UTILITIES = ("power", "negative_power", "log", "log_sigmoid", "linear", "exponential", "quantile")
UNBOUNDED = ("log_sigmoid",)  # those whose best rewards exist without being confined to [0, 1]
# Neighbours alone are compared, so gaps on the straight part of the utility would come out in any order.
QUANTILE_EPSILON = 0.02
DATA_FORMATS = (
    "auto", "lists", "hh", "preference", "unpaired", "demonstration", "messages", "text", "prompt", "ultrafeedback",
    "nectar", "helpsteer3", "nemo_rl", "rewardbench", "rewardbench2", "label_studio", "argilla",
)  # fmt: skip
DIRECT_LOSSES = ("dpo", "rdpo", "ipo", "hinge", "kto", "orpo", "simpo", "f_dpo", "chi_po")
DIVERGENCES = (
    "reverse_kl", "forward_kl", "jensen_shannon", "alpha", "chi_squared", "half_chi_squared", "chi_po", "hellinger",
    "total_variation",
)  # fmt: skip
GROUPED = ("rloo", "grpo", "dr_grpo")  # advantages by comparison with the other responses to the prompt
ADVANTAGES = ("gae", "reinforce", *GROUPED, "reinforce_pp")
# The divergences under which a best policy tells its reward.
DIRECT_DIVERGENCES = ("reverse_kl", "forward_kl", "jensen_shannon", "alpha", "chi_po", "hellinger")
LEVELS = ("sequence", "sentence", "sub_sentence", "token")  # at which a fine-grained reward is paid
OWN = "this"  # in ppo.dense.models: the fine-grained reward model that this run makes itself
AGGREGATES = ("mean", "worst", "uncertainty", "lower")  # of the members of a reward ensemble
FEEDBACK = ("lists", "pairs", "margins", "ties", "edges", "labels", "scores", "mixed")  # of the embedded world
TRACKERS = ("wandb", "trackio")
ACCEPTABLE = (
    "config",
    "data",
    "parents",
    "tokenizer",
    "unfinished",
)  # what may be other than a checkpoint says, if asked for
WORLD_PROMPT_TYPES = ("open", "closed")  # of the embedded data; users' files may have any others

# Keys of config.model that say by what means a model is computed. They belong to a run and its devices: a run that goes
# on from another has its own, and one that is resumed may change them.
MEANS = ("attention", "remat")
