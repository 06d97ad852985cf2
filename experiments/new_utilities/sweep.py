"""The settings: what is computed, not trained twice."""

SEEDS = tuple(range(5))
PROGRAM_SEEDS = (0, 1, 2)
SIGMAS = (0.02, 0.1, 0.25, 0.5, 1.0, 4.0)  # of the exponential utility, in units of reward
SIZES = (8, 20, 100, 300)  # responses
LAWS = ("Beta(2, 2)", "Beta(5, 2)", "Beta(0.5, 0.5)", "bimodal")  # wanted of the quantile utility

SETTINGS = {
    "new_utilities/exponential": "best rewards against the closed law",
    "new_utilities/quantile": "trained free logits against the wanted rewards",
    "new_utilities/world": "a network on the embedded world, held-out lists",
    "new_utilities/obstruction": "no utility of the gap alone reaches these laws",
} | {f"new_utilities/program.{seed}": "the program with a user's own law, by one line" for seed in PROGRAM_SEEDS}
