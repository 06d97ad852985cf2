"""The settings: whose judgement pays the policy, how far it may go, and what is added against the loophole; by seed."""

SEEDS = (0, 1, 2)
MEMBERS = 4  # reward models of the ensemble
RECORDS, EVERY = 12, 5  # measured after every 5 iterations of PPO, 60 in all
BETA = 0.1  # reward per nat, unless an arm says otherwise
BETAS = (0.3, 1.0)
LISTS = 600  # ranked by annotators, unless an arm says otherwise
MORE = 4  # times as many

# Share of LISTS that experts rank by gold, besides those of the annotators.
EXPERT_SHARES = (0.05, 0.2)

# Arm -> what differs from the reward model of the annotators' lists under BETA.
ARMS: dict[str, dict[str, float | str]] = {
    "annotators": {},
    "coded": {"reward": "coded"},  # their rule itself, without noise, and no reward model
    **{f"beta_{beta:g}": {"beta": beta} for beta in BETAS},
    "more_lists": {"lists": MORE * LISTS},
    "ensemble": {"reward": "ensemble"},
    **{f"experts_{share:g}": {"experts": share} for share in EXPERT_SHARES},  # on writers' responses
    **{f"counter_{share:g}": {"counter": share} for share in EXPERT_SHARES},  # on what the policy came to write
    "unchecked_alone": {"prompts": "unchecked"},  # PPO meets no checked prompt
}

# The arms of counter-examples read what the policy of ``annotators`` wrote: it comes first.
SETTINGS = {f"reward_misspecification/{arm}.{seed}": (arm, seed) for seed in SEEDS for arm in ARMS}
