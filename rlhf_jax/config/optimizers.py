"""What the settings of an optimizer may be, and which of them each of them leaves unread."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.groups import optimizer
from rlhf_jax.config.rules import BOOL, COUNT, DECAY, NATURAL, NOT_NEGATIVE, POSITIVE, Rule, one_of

RULES: dict[str, Rule] = {
    "*.optimizer.name": one_of("adamw", "adafactor", "muon"),
    "*.optimizer.learning_rate": POSITIVE,
    "*.optimizer.warmup": NATURAL,
    "*.optimizer.schedule": one_of("cosine", "linear", "constant"),
    "*.optimizer.weight_decay": NOT_NEGATIVE,
    "*.optimizer.clip_norm": NOT_NEGATIVE,
    "*.optimizer.beta?": DECAY,
    "*.optimizer.epsilon": POSITIVE,
    "*.optimizer.momentum": DECAY,
    "*.optimizer.update_rms": POSITIVE,
    "*.optimizer.factored_from": COUNT,
    "*.optimizer.scale_parameter": BOOL,
}
ADAM, MUON, ADAFACTOR = ("beta1", "beta2", "epsilon"), ("momentum", "update_rms"), ("factored_from", "scale_parameter")
UNREAD = {"adamw": (*MUON, *ADAFACTOR), "adafactor": (*ADAM, *MUON), "muon": ADAFACTOR}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Settings of an optimizer that the section does not have."""
    usual = optimizer(1.0, warmup=0)
    for section, settings in c.items():
        if isinstance(settings, ConfigDict) and "optimizer" in settings:
            own = settings.optimizer
            for key in UNREAD[own.name]:
                if own[key] != usual[key]:
                    why = f"config.{section}.optimizer.name is {own.name}"
                    yield f"{section}.optimizer.{key}", f"{own[key]} would go unused: {why}"
