"""The settings: objectives on tables, the project's PPO with a decoder, what is computed, and how tokens are chosen."""

SEEDS = (0, 1, 2, 3, 4)
RECORDS, EVERY = 20, 10  # tables are kept after every 10 iterations, 200 in all, of 512 responses each
BEST_OF = 4
KEPT_SHARE = 0.25  # of the responses of the reference, those that a filter keeps
SIZES = (2, 4, 8, 16)  # of best-of-n in closed form

# Learner -> constants that differ from those of ``learners.Rule``. The first three maximise reward, then value, then
# the likelihood of good tokens; ``value`` keeps its policy and fits values alone.
LEARNERS = {
    "ppo": {"learner": "ppo", "epochs": 4, "minibatches": 4, "whiten": True},
    "ppo_constant": {"learner": "ppo", "epochs": 4, "minibatches": 4, "whiten": True, "schedule": "constant"},
    "gradient": {"learner": "gradient", "critic": False, "lambda_": 1.0},
    "soft_q": {"learner": "soft_q", "learning_rate": 0.05},
    "best_of_n": {"learner": "best_of_n"},
    "filtered": {"learner": "filtered"},
    "value": {"learner": "value"},
}
TASK_NAMES = ("token", "terminal", "discounted")
DISCOUNTED = ("ppo", "soft_q", "value")  # those that are told a discount
TABULAR = {
    f"{task}.{learner}": (task, learner)
    for task in TASK_NAMES
    for learner in LEARNERS
    if task != "discounted" or learner in DISCOUNTED
}

TRANSFORMER_SEEDS = (0, 1, 2)
TRANSFORMER_RECORDS, TRANSFORMER_EVERY = 8, 20
TRANSFORMERS = {"transformer_token": "token", "transformer_terminal": "terminal"}  # name -> task

EXPLORING_SEEDS = 200
EXPLORING_RECORDS, EXPLORING_EVERY = 40, 50  # episodes
# name -> (probability of a random token, temperature of the choice among action values)
BEHAVIOURS = {
    "greedy": (0.0, 1e-4),
    "epsilon 0.1": (0.1, 1e-4),
    "epsilon 0.5": (0.5, 1e-4),
    "random": (1.0, 1e-4),
    "sampled, temperature 0.1": (0.0, 0.1),
}

SETTINGS = (
    {"token_mdp/exact": SIZES}
    | {f"token_mdp/{name}": value for name, value in TABULAR.items()}
    | {f"token_mdp/{name}.{seed}": (value, seed) for name, value in TRANSFORMERS.items() for seed in TRANSFORMER_SEEDS}
    | {"token_mdp/exploring": tuple(BEHAVIOURS.items())}
)
