"""The small commands, ``rlhf-jax NAME ...``: a module each, with a function ``main`` that takes the words after it."""

# The first words of a command line; "-" is "_" in the name of the module.
NAMES = (
    "theory",
    "collapse",
    "evaluate",
    "best-of-n",
    "labels",
    "prepare",
    "export",
    "plan",
    "sweep",
    "report",
    "completion",
    "chat",
)
