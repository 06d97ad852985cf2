"""The optimizer of every learner: AdamW under a schedule, by optax."""

import dataclasses
from typing import Literal

import optax


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """``steps`` counts optimizer updates, warm-up included; ``clip_norm`` 0 leaves gradients as they are."""

    learning_rate: float
    steps: int
    warmup: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8


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
    """Clipping by global norm, then AdamW."""
    clip = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm > 0 else []
    adam = optax.adamw(
        make_schedule(spec), b1=spec.beta1, b2=spec.beta2, eps=spec.epsilon, weight_decay=spec.weight_decay
    )
    return optax.chain(*clip, adam)
