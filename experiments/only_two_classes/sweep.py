"""The settings: how the shape of a prompt's utility is found, on synthetic prompts and on real lists."""

SEEDS = (0, 1, 2, 3, 4)
REAL_SEEDS = (0, 1, 2)
REAL_TYPES = (1, 2, 3)
PROMPTS = 2048  # training lists of a seed
STEPS = 4000

# name -> (score of the gate or "" for a shape given with the data, classes; 0: no classes, a shape of its own).
SYNTHETIC = {
    "given_1": ("", 1),
    "given_2": ("", 2),
    "given_3": ("", 3),
    "given_5": ("", 5),
    "given_continuous": ("", 0),
    "gate_2": ("likelihood", 2),
    "gate_3": ("likelihood", 3),
    "gate_continuous": ("likelihood", 0),
    "gate_own_utility": ("own_utility", 0),
    "estimated_list_moment": ("list_moment", 0),
    "estimated_score_moment": ("score_moment", 0),
    "estimated_end_votes": ("end_votes", 0),
    "estimated_disagreement": ("disagreement", 0),
}

# name -> (types of prompt, seed)
REAL = {f"real_{types}_seed{seed}": (types, seed) for types in REAL_TYPES for seed in REAL_SEEDS}

SETTINGS = {f"only_two_classes/{key}": value for key, value in (SYNTHETIC | REAL).items()}
