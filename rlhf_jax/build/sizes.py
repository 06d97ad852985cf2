"""Sizes that the devices share: batches by rows, rows by tokens, models by the axes of their parameters.

What does not divide is refused, with the nearest sizes that would, before anything is computed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from ml_collections import ConfigDict

from rlhf_jax.errors import UserError
from rlhf_jax.models import DecoderSpec
from rlhf_jax.sharding import SPLIT_OVER
from rlhf_jax.types import SEQUENCE

Fits = Callable[[int], bool]
FARTHEST = 1 << 16  # how far above a size one that fits is looked for


# ------------------------------------------------------------------------------------- rows


def check_rows(config: ConfigDict, devices: int) -> None:
    """See that ``devices`` can share the batches of every stage, before the first one is trained.

    Raises:
      UserError: they cannot; names the key, and its nearest values that would do.
    """
    for key, value, rows, fits, unit in _batches(config, devices):
        if rows % devices:
            text = f"{rows} rows cannot be shared evenly by {devices} devices"
            raise UserError(f"config.{key}: {text}{_instead(value, fits, unit)}")
    ppo = config.ppo
    if ppo.pretraining.coefficient and "ppo" in config.stages and ppo.pretraining.rows // devices % ppo.accumulate:
        text = f"config.ppo.accumulate={ppo.accumulate} does not divide the rows of each of {devices} devices"
        instead = _instead(ppo.pretraining.rows, _multiple_of(devices, ppo.accumulate))
        raise UserError(f"config.ppo.pretraining.rows: {ppo.pretraining.rows}: {text}{instead}")
    for key, rows in _updates(config):
        own, parts = rows // devices, config[key].accumulate
        if own % parts:
            shared = f" of each of {devices} devices" if devices > 1 else ""
            text = f"{parts} does not divide the {own} rows of an update{shared}"
            raise UserError(f"config.{key}.accumulate: {text}{_instead(parts, _divisor_of(own))}")


def _batches(config: ConfigDict, devices: int) -> Iterator[tuple[str, int, int, Fits, str]]:
    """Of each batch that the stages share over devices: key, its value, rows, which values would do, what it counts."""
    ppo, online, stages = config.ppo, config.online, set(config.stages)

    for section, of in (
        ("sft", {"sft"}),
        ("reward", {"reward", "reward_common"}),
        ("critique", {"critique"}),
        ("segments", {"segments"}),
        ("dpo", {"dpo"}),
    ):
        if of & stages:
            rows = config[section].batch_size
            yield f"{section}.batch_size", rows, rows, _multiple_of(devices, config[section].get("accumulate", 1)), ""

    episodes, samples = ppo.prompts_per_iteration * ppo.samples_per_prompt, ppo.samples_per_prompt
    # Of one update; other stages than PPO only answer held-out prompts by so many rows.
    together = devices * ppo.minibatches * ppo.accumulate if "ppo" in stages else devices
    if {"sft", "ppo", "dpo", "online"} & stages:
        enough = _multiple_of(together // math.gcd(together, samples))
        yield "ppo.prompts_per_iteration", ppo.prompts_per_iteration, episodes, enough, " prompts"
    if "ppo" in stages:
        whole = _minibatches_of(episodes, devices * ppo.accumulate)
        yield "ppo.minibatches", ppo.minibatches, episodes // ppo.minibatches, whole, " minibatches"
        if ppo.pretraining.coefficient:
            rows = ppo.pretraining.rows
            yield "ppo.pretraining.rows", rows, rows, _multiple_of(devices, ppo.accumulate), ""
    if "online" in stages:
        prompts = online.prompts_per_iteration
        enough = _multiple_of(devices, online.minibatches)
        yield "online.prompts_per_iteration", prompts, prompts, enough, " prompts"
        whole = _minibatches_of(prompts, devices)
        yield "online.minibatches", online.minibatches, prompts // online.minibatches, whole, " minibatches"
    if ppo.rollout_rows:
        part = _multiple_of(devices)
        yield "ppo.rollout_rows", ppo.rollout_rows, ppo.rollout_rows, lambda n: part(n) and episodes % n == 0, ""


def _multiple_of(*factors: int) -> Fits:
    return lambda n: n % math.prod(factors) == 0


def _divisor_of(rows: int) -> Fits:
    return lambda n: rows % n == 0


def _minibatches_of(rows: int, together: int) -> Fits:
    return lambda n: rows % n == 0 and rows // n % together == 0


def _updates(config: ConfigDict) -> Iterator[tuple[str, int]]:
    """Section and rows of each update that may be worked on in parts."""
    ppo = config.ppo
    if "sft" in config.stages:
        yield "sft", config.sft.batch_size
    if "reward" in config.stages or "reward_common" in config.stages:
        yield "reward", config.reward.batch_size
    if "ppo" in config.stages:
        yield "ppo", ppo.prompts_per_iteration * ppo.samples_per_prompt // ppo.minibatches
    if "dpo" in config.stages:
        yield "dpo", config.dpo.batch_size


def _instead(value: int, fits: Fits, unit: str = "") -> str:
    """In words the nearest values below and above that fit; "" where there are none."""
    found = nearest(value, fits)
    return f"; {either(found)}{unit} would" if found else ""


def nearest(value: int, fits: Fits) -> list[int]:
    """The nearest whole numbers below and above ``value`` that fit, of each one or none; at least 1."""
    below = next((n for n in range(value - 1, 0, -1) if fits(n)), None)
    above = next((n for n in range(value + 1, value + FARTHEST) if fits(n)), None)
    return [n for n in (below, above) if n is not None]


def either(numbers: Iterable[int]) -> str:
    """1, 2 or 4."""
    *others, last = [str(n) for n in numbers]
    return f"{', '.join(others)} or {last}" if others else last


# ------------------------------------------------------------------------------------- tokens


def check_lengths(config: ConfigDict) -> None:
    """See that ``config.parallel.sequence`` divides the tokens of rows: others would be held whole by each device.

    Raises:
      UserError: it does not; names the key, and its nearest values that would do.
    """
    shards, data = config.parallel[SEQUENCE], config.data
    packed = [("sft.row_length", config.sft.row_length, 0)] if "sft" in config.stages else []
    for key, own, others in (*packed, ("data.max_response", data.max_response, data.max_prompt)):
        if (own + others) % shards:
            text = f"rows of {own + others} tokens cannot be shared evenly by config.parallel.{SEQUENCE}={shards}"
            raise UserError(f"config.{key}: {own}: {text}{_instead(own, _multiple_less(shards, others))}")


def _multiple_less(shards: int, others: int) -> Fits:
    return lambda n: (n + others) % shards == 0


def check_unpadding(config: ConfigDict, devices: int) -> None:
    """See that PPO is not asked to leave padding out where rows are split over ``devices``.

    Raises:
      UserError: it is; names the key, and what would do.
    """
    if "ppo" in config.stages and config.ppo.unpad == "yes" and devices > 1:
        text = f"{devices} devices work on whole rows, padding and all; auto or no would do, or one device"
        raise UserError(f"config.ppo.unpad: yes: {text}")


# ------------------------------------------------------------------------------------- models


def check_model(models: Mapping[str, DecoderSpec], parallel: ConfigDict, devices: int, *, fresh: bool) -> None:
    """See that the mesh divides every axis that its rules split, but the vocabulary's: see ``notes_on``.

    ``models`` are decoders by the key that says what they are; ``fresh``: that of "model" may have any sizes.

    Raises:
      UserError: it does not; names the key, and which meshes of so many devices (and which sizes) would do.
    """
    for key, spec in models.items():
        for name, size in (
            ("width", spec.width),
            ("heads", spec.heads),
            ("kv_heads", spec.kv_heads),
            ("mlp_width", spec.mlp_width),
        ):
            axis = SPLIT_OVER[name]
            shards = parallel[axis]
            if _divides(spec, name, size, shards):
                continue
            named = f"config.model.{name}: {size}" if key == "model" else f"config.{key}: {name} {size}"
            ways = [n for n in range(1, devices + 1) if devices % n == 0 and _divides(spec, name, size, n)]
            text = f"{named} cannot be split evenly over config.parallel.{axis}={shards}; {axis} {either(ways)} would"
            if key == "model" and fresh:
                sizes = nearest(size, partial(_fits, spec, name, shards))
                text += f", or {name} {either(sizes)}" if sizes else ""
            raise UserError(text)


def _divides(spec: DecoderSpec, name: str, size: int, shards: int) -> bool:
    """Whether so many shards are equal, of heads whole ones; parts of heads where key-value heads are fewer."""
    if name == "kv_heads" and size % shards:
        return shards % size == 0 and spec.head_dim % (shards // size) == 0
    return size % shards == 0


def _fits(spec: DecoderSpec, name: str, shards: int, size: int) -> bool:
    """Whether a fresh decoder with another ``size`` would do."""
    if name == "width":
        return size % math.lcm(shards, spec.heads * (2 if spec.positions == "rotary" else 1)) == 0
    if name == "heads":
        parts = size * (2 if spec.positions == "rotary" else 1)  # a rotary head is of pairs
        return size % math.lcm(shards, spec.kv_heads) == 0 and spec.width % parts == 0
    if name == "kv_heads":
        return spec.heads % size == 0 and _divides(spec, name, size, shards)
    return size % shards == 0


def notes_on(spec: DecoderSpec, parallel: ConfigDict) -> tuple[str, ...]:
    """What a mesh costs that splits a decoder less well than it could, in words."""
    notes = []
    axis, vocabulary = SPLIT_OVER["vocabulary"], spec.vocab_size
    if vocabulary % (shards := parallel[axis]):
        matrices = 1 if spec.tied else 2
        held = matrices * vocabulary * spec.width * spec.param_dtype.itemsize / parallel[SPLIT_OVER["width"]]
        notes.append(
            f"config.parallel.{axis}={shards} does not divide the vocabulary of {vocabulary:,}, which is not split: "
            f"of every copy of the parameters a device holds {held * (1 - 1 / shards) / 2**20:,.1f} MiB more than with "
            f"{-(-vocabulary // shards) * shards:,} tokens"
        )
    axis, heads = SPLIT_OVER["kv_heads"], spec.kv_heads
    if heads % (shards := parallel[axis]):
        notes.append(
            f"config.parallel.{axis}={shards} is more than the {heads} key-value heads: each is computed in "
            f"{shards // heads} parts, which devices exchange before attention"
        )
    return tuple(notes)
