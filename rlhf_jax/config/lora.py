"""Which stages train by low-rank adapters, and by which."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from rlhf_jax.config.names import ADAPTABLE, KERNELS
from rlhf_jax.config.rules import NATURAL, POSITIVE, Rule, did_you_mean, one_of

ALPHA, TARGETS, BASE = 16.0, ("q", "v"), "float32"


def add_defaults(c: ConfigDict) -> None:
    """Put the section into a configuration."""
    c.lora = ConfigDict()  # adapters beside frozen kernels; the stages named train them and their heads alone
    c.lora.rank = 0  # inner size of an adapter; 0: none
    c.lora.alpha = ALPHA  # adapters are multiplied by alpha / rank
    c.lora.targets = TARGETS  # the kernels of each layer that get one: q, k, v, o, gate, up, down
    c.lora.base = BASE  # what the frozen decoder is kept as: float32, bfloat16, int8 or nf4 (the last two need qwix)
    c.lora.stages = ()  # which of config.stages train by adapters: sft, reward, reward_common, dpo, online, ppo


RULES: dict[str, Rule] = {
    "lora.rank": NATURAL,
    "lora.alpha": POSITIVE,
    "lora.targets": Rule(
        lambda v: bool(v) and len(set(v)) == len(v) and set(v) <= set(KERNELS),
        f"different ones of {', '.join(KERNELS)}",
    ),
    "lora.base": one_of("float32", "bfloat16", "int8", "nf4"),
    "lora.stages": Rule(lambda v: len(set(v)) == len(v), "different stages"),
}


def problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Adapters that no stage would train, or that the model has no place for."""
    lora = c.lora
    if not lora.rank:
        for key, default in (("alpha", ALPHA), ("targets", TARGETS), ("base", BASE), ("stages", ())):
            if lora[key] != default:
                yield f"lora.{key}", f"{lora[key]} would go unused: config.lora.rank is 0"
        return
    if not lora.stages:
        yield "lora.rank", f"{lora.rank} would go unused: config.lora.stages names no stage"
    for stage in lora.stages:
        if stage not in ADAPTABLE:
            hint = did_you_mean(str(stage), ADAPTABLE)
            yield "lora.stages", f"{stage!r} is not one of {', '.join(ADAPTABLE)}, which can train by adapters{hint}"
        if stage not in c.stages:
            yield "lora.stages", f"{stage} would go unused: it is not one of config.stages"
    if "online" in lora.stages and c.online.reference_every:
        yield "lora.stages", "online, but with config.online.reference_every its reference is not the frozen model"
    if not (c.model.path or c.parents.sft or c.parents.reward_start):  # else config.model has their sizes later
        yield from adapter_problems(c)
    if "gate" in lora.targets and "glu" not in c.model.activation:
        yield "lora.targets", f"gate, but a layer with config.model.activation={c.model.activation} has no such kernel"


def adapter_problems(c: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys and reasons where adapters do not fit the sizes in ``config.model``, once those are the model's."""
    lora = c.lora
    if lora.rank > c.model.width:
        yield "lora.rank", f"{lora.rank} is more than config.model.width={c.model.width}; no kernel has a higher rank"
    for key, axis in (("width", "fsdp"), ("mlp_width", "tensor")):
        if lora.rank and lora.base == "nf4" and c.model[key] % (2 * c.parallel[axis]):
            why = f"config.model.{key}={c.model[key]} is not divisible by 2 x config.parallel.{axis}={c.parallel[axis]}"
            yield "lora.base", f"nf4 keeps two inputs in a byte, but {why}"
