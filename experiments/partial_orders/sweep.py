"""The settings: every member of the family on orders of eight responses, and the program with ties kept or broken."""

SEEDS = (0, 1, 2, 3, 4)
PROGRAM_SEEDS = (0, 1, 2)
PROGRAM_STEPS = 1400
EPSILON = 0.01  # of the members that need a continuation
ORDERS = ("full", "two", "two_uneven", "three", "chain", "star", "sparse")

# name -> (member of the family, its parameters).
MEMBERS = {
    **{f"power_{g:g}": ("power", {"gamma": g, "epsilon": EPSILON}) for g in (0.2, 0.5, 0.8)},
    "log": ("log", {"epsilon": EPSILON}),
    **{f"negative_power_{g:g}": ("negative_power", {"gamma": g, "epsilon": EPSILON}) for g in (0.5, 1.0)},
    **{f"log_sigmoid_{s:g}": ("log_sigmoid", {"sigma": s}) for s in (0.25, 1.0)},
    "linear": ("linear", {}),
    "exponential_0.25": ("exponential", {"sigma": 0.25}),
    "quantile_2": ("quantile", {"a": 2.0, "b": 2.0, "epsilon": EPSILON}),
}

# name -> (ties, seed)
PROGRAM = {
    f"program_{ties}_{PROGRAM_STEPS}_seed{seed}": (ties, seed) for ties in ("kept", "broken") for seed in PROGRAM_SEEDS
}

SETTINGS = {f"partial_orders/{key}": value for key, value in (MEMBERS | PROGRAM).items()}
