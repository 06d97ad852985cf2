"""Which utility should rank the answers? Three families of them, each with an exponent of its own; and the logarithm.

Eight points; with three seeds that is 24 trials.
"""

from typing import Any

EXPONENTS = {"power": (0.2, 0.5, 0.8), "negative_power": (0.5, 1.0, 2.0)}
SLOPES = {"exponential": (0.25,)}


def space(trial: Any) -> None:
    """One utility: its name, and the parameter that this one has."""
    name = trial.suggest_categorical("reward.utility.name", ["power", "negative_power", "log", "exponential"])
    if name in EXPONENTS:
        trial.suggest_categorical("reward.utility.gamma", EXPONENTS[name])
    if name in SLOPES:
        trial.suggest_categorical("reward.utility.sigma", SLOPES[name])
