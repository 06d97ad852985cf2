"""The settings: a proxy and a gold each. Data only."""

SEEDS = (0, 1, 2)
BETAS = (0.003, 0.01, 0.02, 0.05)  # reward per nat; all proxies have the linear one's deviation under the reference
# The linear proxy has a closed form, and more runs beside it.
CHECK_SEEDS = (0, 1, 2, 3, 4, 5)
CHECK_BETAS = (0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.1, 0.2)

BEST_OF = tuple(2**power for power in range(17))  # exactly
SAMPLES = 16_384  # answers of the reference to a seed, from which best-of-n is estimated as well
SAMPLED_BEST_OF = tuple(n for n in BEST_OF if n <= SAMPLES // 4)

# What a proxy is made of, unless its arm says otherwise: a decoder of one layer that learns from ranked lists of eight.
PROXY = {
    "width": 8,  # 0: a bag of tokens, one weight each
    "lists": 200,
    "noise": 0.0,  # share of pairs whose label is turned round
    "utility": {"name": "log_sigmoid"},
    "members": 1,
    "aggregate": "mean",
    "gold": "code",  # code, model (a larger reward model that learned it), or FILE.py:FUNCTION of (prompt, response)
}
ARMS = {
    "bag": {"width": 0},
    "width_4": {"width": 4},
    "width_8": {},
    "width_16": {"width": 16},
    "lists_25": {"lists": 25},
    "lists_800": {"lists": 800},
    "noise_25": {"noise": 0.25},
    "noise_40": {"noise": 0.4},
    "utility_log": {"utility": {"name": "log", "epsilon": 0.05}},
    "utility_power": {"utility": {"name": "power", "gamma": 0.5, "epsilon": 0.05}},
    "ensemble_mean": {"noise": 0.4, "members": 5},
    "ensemble_worst": {"noise": 0.4, "members": 5, "aggregate": "worst"},
    "ensemble_lower": {"noise": 0.4, "members": 5, "aggregate": "lower"},
    "gold_model": {"width": 0, "gold": "model"},
    "gold_function": {"width": 0, "gold": "experiments/overoptimisation/golds.py:modest"},
}
# Linear in the number of spices, with no end of sequence (its closed form) or with one.
LINEAR = {"linear": ("fixed", CHECK_BETAS, CHECK_SEEDS), "linear_free": ("free", BETAS, SEEDS)}

SETTINGS = {f"overoptimisation/{name}": value for name, value in LINEAR.items()} | {
    f"overoptimisation/{name}": (PROXY | arm, BETAS, SEEDS) for name, arm in ARMS.items()
}
