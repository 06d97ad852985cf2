"""Adapters of the stages that ``config.lora`` names."""

from collections.abc import Callable
from functools import partial

import jax
from ml_collections import ConfigDict

from rlhf_jax.models import (
    ONE_MODEL,
    EnsembleSpec,
    LoRASpec,
    add_adapters,
    check_quantiser,
    member_keys,
    quantised,
    without_adapters,
)
from rlhf_jax.types import Params

ADAPTERS = 2**32 - 4  # the stream of a stage's key from which adapters are drawn


def lora_spec(config: ConfigDict, stage: str) -> LoRASpec | None:
    """The adapters of a stage, None where it trains the whole model."""
    lora = config.lora
    return LoRASpec(lora.rank, lora.alpha, tuple(lora.targets)) if lora.rank and stage in lora.stages else None


def check_base(config: ConfigDict) -> None:
    """Raise UserError if a stage's frozen decoder is to be kept as what cannot be made here."""
    if config.lora.rank:
        check_quantiser(config.lora.base)


def adapt(config: ConfigDict, stage: str, params: Params, key: jax.Array, ensemble: EnsembleSpec = ONE_MODEL) -> Params:
    """The parameters that a stage starts from, with fresh adapters if it trains by them; ``key`` is the stage's.

    Of an ensemble of whole models each has its own. What is frozen beside them is kept as ``config.lora.base``.

    Raises:
      UserError: what that is made by is not installed.
    """
    spec = lora_spec(config, stage)
    if spec is None:
        return params
    add = partial(add_adapters, spec)
    own = jax.random.fold_in(key, ADAPTERS)
    if ensemble.members > 1 and ensemble.kind == "models":
        whole = jax.vmap(add)(params, member_keys(own, ensemble.members))
    else:
        whole = add(params, own)
    return whole if config.lora.base == "float32" else jax.jit(partial(quantised, config.lora.base))(whole)


def reference_of(config: ConfigDict, stage: str, loaded: Params) -> Callable[[Params], Params]:
    """The function from a policy in training to its reference: what was ``loaded``, or the model beneath its adapters.

    Those are the same numbers, unless the second is kept in fewer bits; of it there is no copy, and nobody need keep
    what was loaded.
    """
    return (lambda _: loaded) if lora_spec(config, stage) is None else without_adapters


def adapted(
    config: ConfigDict, stage: str, init: Callable[[jax.Array], Params], ensemble: EnsembleSpec = ONE_MODEL
) -> Callable[[jax.Array], Params]:
    """``init`` followed by ``adapt``: parameters as a checkpoint of the stage has them."""
    return lambda key: adapt(config, stage, init(key), key, ensemble)
