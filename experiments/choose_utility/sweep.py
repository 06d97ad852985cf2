"""The settings: a utility each, trained under two noises of the rater and eight seeds at once."""

NOISES = (0.1, 0.4)  # of a Plackett-Luce rater, in units of the gold reward
SEEDS = tuple(range(8))
EPSILON = 0.01

_MEMBERS = (
    *(("power", {"gamma": gamma, "epsilon": EPSILON}) for gamma in (0.2, 0.5, 0.8, 1.0)),
    ("power", {"gamma": 0.5, "epsilon": 0.1}),
    ("log", {"epsilon": EPSILON}),
    ("log", {"epsilon": 0.1}),
    *(("negative_power", {"gamma": gamma, "epsilon": EPSILON}) for gamma in (0.5, 1.0, 2.0)),
    ("negative_power", {"gamma": 1.0, "epsilon": 0.1}),
    *(("log_sigmoid", {"sigma": sigma}) for sigma in (0.1, 0.25, 1.0)),
    *(("exponential", {"sigma": sigma}) for sigma in (0.1, 0.25, 1.0)),
    *(("quantile", {"a": a, "b": b, "epsilon": EPSILON}) for a, b in ((0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (5.0, 2.0))),
)


def _title(name: str, parameters: dict[str, float]) -> str:
    return "_".join([name, *(f"{key}{value:g}" for key, value in parameters.items())])


# id -> (member of the family, its parameters). Power of gamma 1 is linear.
SETTINGS = {f"choose_utility/{_title(*member)}": member for member in _MEMBERS}
