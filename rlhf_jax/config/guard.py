"""What a run does about numbers gone bad: how many steps may be skipped, and what a spike of the loss is."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.rules import COUNT, NATURAL, NOT_NEGATIVE, Rule


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.guard = ConfigDict()  # a step that is not finite is skipped (docs/reliability.md)
    c.guard.max_skipped = 10  # steps on end that may be skipped; one more ends the run with 65
    c.guard.spike = 0.0  # robust standard deviations above the median of past losses that are a spike, from which the
    #                      run goes back to its last checkpoint and on with later batches; 0: never
    c.guard.window = 100  # past losses that a spike is told by
    c.guard.max_rewinds = 10  # rewinds from one checkpoint to the next; one more ends the run with 65


RULES: dict[str, Rule] = {
    "guard.max_skipped": NATURAL,
    "guard.spike": NOT_NEGATIVE,
    "guard.window": COUNT,
    "guard.max_rewinds": NATURAL,
}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Combinations that cannot be."""
    if c.guard.spike and c.checkpoint.keep < 2:
        yield "checkpoint.keep", f"{c.checkpoint.keep} is too few for config.guard.spike to go back to; at least 2"
