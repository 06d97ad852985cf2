"""The stage of a fine-grained reward model."""

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.names import LEVELS
from rlhf_jax.config.rules import COUNT, Rule, different, kind_and_level, one_of


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.segments = ConfigDict()  # the fine-grained reward model
    c.segments.steps = 800  # updates
    c.segments.batch_size = 64  # responses per update, over all devices
    c.segments.init = "sft"  # sft: start from the SFT checkpoint; scratch: from random parameters
    c.segments.kinds = (  # KIND:LEVEL, a head for each: a kind of spans in the data, and the parts judged, of LEVELS
        "plain:sub_sentence",
        "repeated:sub_sentence",
        "wrong_city:sub_sentence",
        "short:sequence",
    )
    c.segments.least_words = 5  # of a sub-sentence; a shorter piece is joined to its neighbour
    c.segments.unmarked = "good"  # responses without any span: good (nothing was found) or skip (nobody looked)
    c.segments.optimizer = optimizer(1e-3, warmup=20)
    c.segments.eval_every = 400  # steps between evaluations on held-out data


RULES: dict[str, Rule] = {
    "segments.kinds": Rule(
        lambda v: bool(v) and all(kind_and_level(one)[1] in LEVELS for one in v) and different(v),
        f"different kinds as KIND:LEVEL, levels {', '.join(LEVELS)}",
    ),
    "segments.init": one_of("sft", "scratch"),
    "segments.unmarked": one_of("good", "skip"),
    "segments.*": COUNT,
}
