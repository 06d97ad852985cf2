"""The settings: an arm and a number of labelled lists each; every setting runs all seeds."""

SEEDS = (0, 1, 2)
LISTS = (50, 400)  # of four answers, ranked in tiers by their true quality

# plain: a reward model. critique: rewards read after the given critiques. plain_long: plain with more steps, more than
# the training compute of ``critique``. mixed: in the second half of training, half of the rewards are read after
# critiques of the model's own.
ARMS = ("plain", "critique", "plain_long", "mixed")
LONGER = 2  # times as many steps in plain_long

SETTINGS = {f"critiques/{arm}_{lists}": (arm, lists) for arm in ARMS for lists in LISTS}
