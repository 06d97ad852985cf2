"""The optimizer of every learner, by name, under a schedule, by optax."""

import dataclasses
from typing import Literal

import optax

from rlhf_jax.learners.adafactor import scale_by_adafactor
from rlhf_jax.learners.muon import labels, scale_by_muon


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """``steps`` counts optimizer updates, warm-up included; ``clip_norm`` 0 leaves gradients as they are.

    ``beta1``, ``beta2`` and ``epsilon`` are Adam's, ``momentum`` and ``update_rms`` Muon's, the last two Adafactor's.
    """

    learning_rate: float
    steps: int
    warmup: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    name: Literal["adamw", "adafactor", "muon"] = "adamw"
    momentum: float = 0.95
    update_rms: float = 0.2
    factored_from: int = 128
    scale_parameter: bool = False


def make_schedule(spec: OptimizerSpec) -> optax.Schedule:
    """Linear warm-up to the peak, then constant, or linear or cosine decay to 0 at the last update."""
    after = max(spec.steps - spec.warmup, 1)
    decay = {
        "constant": optax.constant_schedule(spec.learning_rate),
        "linear": optax.linear_schedule(spec.learning_rate, 0.0, after),
        "cosine": optax.cosine_decay_schedule(spec.learning_rate, after),
    }[spec.schedule]
    if spec.warmup == 0:
        return decay
    # Update 0 already moves: its rate is peak / warmup, and update `warmup` has the whole of it.
    rise = optax.linear_schedule(spec.learning_rate / spec.warmup, spec.learning_rate, max(spec.warmup - 1, 1))
    return optax.join_schedules([rise, decay], [spec.warmup])


def make_optimizer(spec: OptimizerSpec) -> optax.GradientTransformation:
    """Clipping by global norm, then the optimizer; its weight decay is decoupled and follows the learning rate."""
    clip = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm > 0 else []
    schedule = make_schedule(spec)
    adam = optax.adamw(schedule, b1=spec.beta1, b2=spec.beta2, eps=spec.epsilon, weight_decay=spec.weight_decay)
    if spec.name == "adamw":
        return optax.chain(*clip, adam)
    step = optax.add_decayed_weights(spec.weight_decay), optax.scale_by_learning_rate(schedule)
    if spec.name == "adafactor":
        scale = scale_by_adafactor(spec.factored_from, scale_parameter=spec.scale_parameter)
        return optax.chain(*clip, scale, *step)
    muon = optax.chain(scale_by_muon(spec.momentum, spec.update_rms), *step)
    return optax.chain(*clip, optax.partition({"matrices": muon, "rest": adam}, labels))
