"""The settings: how the members of an ensemble come to differ, by seed."""

SEEDS = (0, 1, 2)
MEMBERS = 5

# name -> (kind of ensemble, whether each member resamples the lists)
ARMS = {
    "models": ("models", False),
    "heads": ("heads", False),
}

# Lists on which an ensemble is read; the first is what it was trained on, in new lists.
SHIFTS = ("same", "combination", "unseen", "shuffled", "vivid")
BEST_OF = (1, 4, 16, 64, 128)
# name -> (aggregate, its penalty)
AGGREGATES = {
    "mean": ("mean", 0.0),
    "worst": ("worst", 0.0),
    "uncertainty": ("uncertainty", 10.0),
    "lower": ("lower", 1.0),
}

SETTINGS = {f"ensembles/{arm}.{seed}": (arm, seed) for seed in SEEDS for arm in ARMS}
