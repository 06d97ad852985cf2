"""The settings: where the coin lies in training, who says what is right, and how far the policy may go; by seed."""

SEEDS = (0, 1, 2)
MEMBERS = 4  # reward models of an ensemble
RECORDS, EVERY = 10, 6  # measured after every 6 iterations of PPO, 60 in all

# Share of training rows whose coin lies anywhere but at the end, cue and goal apart.
SHARES = (0.0, 0.01, 0.05, 0.2)
BETAS = (0.05, 0.2, 0.5)  # reward per nat
BETA = 0.2  # of the arms that are paid by reward models

# Arm -> (what PPO is paid by, share of rows with cue and goal apart, beta).
# true: the coin itself, on rows of that share. first, worst: one reward model, or the worst of an ensemble, whose
# rankings are of rows of that share; PPO itself then is run on rows with the coin anywhere.
ARMS: dict[str, tuple[str, float, float]] = (
    {f"true_{share:g}_beta_{beta:g}": ("true", share, beta) for beta in BETAS for share in SHARES}
    | {f"first_{share:g}": ("first", share, BETA) for share in SHARES}
    | {f"worst_{share:g}": ("worst", share, BETA) for share in SHARES}
)

SETTINGS = {f"goal_misgeneralisation/{arm}.{seed}": (arm, seed) for seed in SEEDS for arm in ARMS}
