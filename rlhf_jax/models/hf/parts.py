"""Settings that are more than one number under one name: heads, biases, activations, windows, rotary positions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from rlhf_jax.models.hf.settings import Settings
from rlhf_jax.models.spec import DecoderSpec, RopeScaling

Fields = dict[str, Any]


@runtime_checkable
class Part(Protocol):
    """A piece of ``config.json``, both ways."""

    def read(self, settings: Settings, fields: Fields) -> Fields:
        """The fields of a spec that the settings give; ``fields`` are those read before. Raises UserError."""

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        """The settings of a spec."""


@dataclasses.dataclass(frozen=True)
class HeadSize:
    """Channels of a head; 0 as a default: width / heads."""

    default: int = 0

    def read(self, settings: Settings, fields: Fields) -> Fields:
        usual = fields["width"] // fields["heads"]
        size = settings.size("head_dim", self.default or max(usual, 1))
        if fields["heads"] % fields["kv_heads"]:
            raise settings.refuse("num_key_value_heads", f"{fields['kv_heads']} does not divide {fields['heads']}")
        return {"head_size": 0 if size * fields["heads"] == fields["width"] else size}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        return {"head_dim": spec.head_dim}


@dataclasses.dataclass(frozen=True)
class FullHeads:
    """As many heads of keys and values as of queries, which share the width."""

    def read(self, settings: Settings, fields: Fields) -> Fields:
        if fields["width"] % fields["heads"]:
            raise settings.refuse("heads", f"{fields['heads']} do not divide a width of {fields['width']}")
        return {"kv_heads": fields["heads"]}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class Flag:
    """One key, true or false, for one or more fields."""

    key: str
    fields: tuple[str, ...]
    default: bool

    def read(self, settings: Settings, fields: Fields) -> Fields:
        return dict.fromkeys(self.fields, settings.flag(self.key, self.default))

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        return {self.key: getattr(spec, self.fields[0])}


@dataclasses.dataclass(frozen=True)
class Activation:
    """The non-linearity: ``names`` are the settings that mean each of ours, the first of a kind is written."""

    key: str
    names: Mapping[str, str]

    def read(self, settings: Settings, fields: Fields) -> Fields:
        name = settings.get(self.key, next(iter(self.names)))
        if name not in self.names:
            raise settings.refuse(self.key, f"{name!r} is not supported, only {', '.join(self.names)}")
        return {"activation": self.names[name]}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        fitting = [name for name, kind in self.names.items() if kind == spec.activation]
        return {self.key: next(iter(fitting or self.names))}


GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
GATED_GELU = {"gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
PLAIN = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "gelu_erf"}
PLAIN_ERF = {"gelu": "gelu_erf", **PLAIN}


@dataclasses.dataclass(frozen=True)
class Softcap:
    """A cap, null for none."""

    key: str
    field: str
    default: float | None

    def read(self, settings: Settings, fields: Fields) -> Fields:
        value = settings.get(self.key, self.default)
        return {self.field: 0.0 if value is None else settings.positive(self.key, value)}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        return {self.key: getattr(spec, self.field) or None}


@dataclasses.dataclass(frozen=True)
class QueryScale:
    """``query_pre_attn_scalar``: scores are divided by its root, whatever the size of a head."""

    def read(self, settings: Settings, fields: Fields) -> Fields:
        scalar = settings.size("query_pre_attn_scalar", 256)
        size = fields["head_size"] or fields["width"] // fields["heads"]
        return {"query_scale": 0.0 if scalar == size else scalar**-0.5}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        return {"query_pre_attn_scalar": round(spec.attention_scale**-2)}


# ------------------------------------------------------------------------- windows

LOCAL, FULL = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class EveryLayerWindow:
    """Mistral: all layers are local, or none."""

    def read(self, settings: Settings, fields: Fields) -> Fields:
        if settings.get("sliding_window", 4096) is None:
            return {}
        return {"window": settings.size("sliding_window", 4096), "local": (True,) * fields["depth"]}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        return {"sliding_window": spec.window or None}


@dataclasses.dataclass(frozen=True)
class LayerTypes:
    """``layer_types``, or a rule: qwen, the layers from ``max_window_layers`` on are local, if any are at all; a
    number n, every n-th layer is not.
    """

    rule: Literal["qwen"] | int

    def read(self, settings: Settings, fields: Fields) -> Fields:
        depth = fields["depth"]
        if self.rule == "qwen":
            some, first = settings.flag("use_sliding_window", False), settings.get("max_window_layers", 28)
            usual = [LOCAL if some and layer >= first else FULL for layer in range(depth)]
        else:
            every = settings.size("_sliding_window_pattern", settings.size("sliding_window_pattern", self.rule))
            some, usual = True, [FULL if (layer + 1) % every == 0 else LOCAL for layer in range(depth)]
        types = settings.get("layer_types", None) or usual
        if not isinstance(types, list) or len(types) != depth or set(types) - {LOCAL, FULL}:
            raise settings.refuse("layer_types", f"must be {LOCAL} or {FULL} for each of {depth} layers")
        window = settings.get("sliding_window", 4096)
        if LOCAL not in types:
            return {}
        if not some or window is None:
            raise settings.refuse("layer_types", f"{LOCAL} without a window")
        return {"window": settings.size("sliding_window", 4096), "local": tuple(kind == LOCAL for kind in types)}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        local = spec.local or (False,) * spec.depth
        found: dict[str, Any] = {"layer_types": [LOCAL if one else FULL for one in local]}
        if self.rule != "qwen":
            return found | {"sliding_window": spec.window or 4096}
        first = local.index(True) if spec.window else spec.depth
        return found | {
            "use_sliding_window": spec.window > 0,
            "sliding_window": spec.window or None,
            "max_window_layers": first,
        }


@dataclasses.dataclass(frozen=True)
class AttentionTypes:
    """GPT-Neo: lists of kinds with how often each is repeated, and the same spelled out."""

    def read(self, settings: Settings, fields: Fields) -> Fields:
        depth, key = fields["depth"], "attention_types"
        groups = settings.get(key, [[["global", "local"], depth // 2]])
        try:
            kinds = [kind for names, times in groups for kind in list(names) * min(times, depth + 1)]
        except (TypeError, ValueError) as error:
            raise settings.refuse(key, f"not lists of kinds and counts: {error}") from error
        spelled = settings.get("attention_layers", kinds)
        if spelled != kinds or len(kinds) != depth or set(kinds) - {"global", "local"}:
            raise settings.refuse(key, f"must be global or local for each of {depth} layers")
        window = settings.size("window_size", 256)
        return {"window": window, "local": tuple(kind == "local" for kind in kinds)} if "local" in kinds else {}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        kinds = ["local" if one else "global" for one in spec.local or (False,) * spec.depth]
        return {"attention_types": [[kinds, 1]], "attention_layers": kinds, "window_size": spec.window or 256}


# ------------------------------------------------------------------------- rotary positions

_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "yarn": {
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    },
}


@dataclasses.dataclass(frozen=True)
class Rope:
    """``rope_parameters`` of transformers 5, or ``rope_theta`` and ``rope_scaling`` of those before it.

    ``theta_key`` and ``fraction_key`` are the older names of the base and of the fraction of channels that rotate.
    """

    theta: float = 10_000.0
    theta_key: str = "rope_theta"
    fraction: float = 1.0
    fraction_key: str = ""

    def read(self, settings: Settings, fields: Fields) -> Fields:
        new, old = settings.get("rope_parameters", None), settings.get("rope_scaling", None)
        given = _mapping(settings, "rope_scaling" if old else "rope_parameters", old or new or {})
        theta = settings.number(self.theta_key, self.theta)
        found = read_rope(settings, given, theta, fields["max_positions"])
        fraction = given.get("partial_rotary_factor")
        if self.fraction_key:
            older = settings.number(self.fraction_key, self.fraction)
            fraction = older if fraction is None else settings.positive("partial_rotary_factor", fraction)
            size = fields.get("head_size", 0) or fields["width"] // fields["heads"]
            if fraction > 1 or int(size * fraction) % 2 or int(size * fraction) < 2:
                raise settings.refuse(
                    "partial_rotary_factor", f"{fraction} of {size} channels is not a few whole pairs"
                )
            return {**found, "rotary_fraction": fraction}
        if fraction not in (None, 1, 1.0):
            raise settings.refuse("partial_rotary_factor", f"{fraction!r} is not supported here")
        settings.only("partial_rotary_factor", (None, 1.0))
        return found

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        rope = write_rope(spec.rope_theta, spec.rope_scaling)
        # The second is where readers looked before there was the first, and so is the third.
        settings = {"rope_parameters": rope, self.theta_key: spec.rope_theta}
        if spec.rope_scaling:
            settings["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
        if self.fraction_key:
            rope["partial_rotary_factor"] = spec.rotary_fraction
            settings[self.fraction_key] = spec.rotary_fraction
        return settings


@dataclasses.dataclass(frozen=True)
class TwoRopes:
    """Gemma 3: local layers have a base of their own, and scaling is for the others."""

    def read(self, settings: Settings, fields: Fields) -> Fields:
        rope = _mapping(settings, "rope_parameters", settings.get("rope_parameters", None) or {})
        if rope.keys() - {LOCAL, FULL}:
            raise settings.refuse("rope_parameters", f"must hold {FULL} and {LOCAL}")
        everywhere, local = (_mapping(settings, "rope_parameters", rope.get(kind) or {}) for kind in (FULL, LOCAL))
        older = _mapping(settings, "rope_scaling", settings.get("rope_scaling", None) or {})
        theta = settings.number("rope_theta", 1_000_000.0)
        found = read_rope(settings, {**everywhere, **older}, theta, fields["max_positions"])
        own = read_rope(settings, local, settings.number("rope_local_base_freq", 10_000.0), fields["max_positions"])
        if own["rope_scaling"]:
            raise settings.refuse("rope_parameters", f"scaling of {LOCAL} is not supported")
        scaling = found["rope_scaling"]
        if scaling and scaling.gain != 1.0:
            raise settings.refuse("rope_parameters", "yarn is not supported beside another base of local layers")
        return {**found, "local_rope_theta": own["rope_theta"]}

    def write(self, spec: DecoderSpec) -> dict[str, Any]:
        local = spec.local_rope_theta or spec.rope_theta
        full = write_rope(spec.rope_theta, spec.rope_scaling)
        settings = {
            "rope_parameters": {FULL: full, LOCAL: write_rope(local, None)},
            "rope_theta": spec.rope_theta,
            "rope_local_base_freq": local,
        }
        if spec.rope_scaling:
            settings["rope_scaling"] = {key: value for key, value in full.items() if key != "rope_theta"}
        return settings


def read_rope(settings: Settings, given: Mapping[str, Any], theta: float, longest: int) -> Fields:
    """Base and scaling of one set of rotary parameters. Raises UserError for a kind or a key that is not known."""
    kind = given.get("rope_type") or given.get("type") or "default"
    name = "rope_parameters"
    if kind not in _KEYS:
        raise settings.refuse(name, f"rope_type {kind!r} is not supported, only {', '.join(_KEYS)}")
    for key in sorted(given.keys() - _KEYS[kind] - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}):
        raise settings.refuse(f"{name}.{key}", f"not known of rope_type {kind}")

    def number(key: str, default: float | None = None) -> float:
        value = given.get(key)
        return settings.positive(f"{name}.{key}", default if value is None else value)

    theta = number("rope_theta", theta)
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if kind == "linear":
        return {"rope_theta": theta, "rope_scaling": RopeScaling("linear", number("factor"))}
    original = int(number("original_max_position_embeddings", float(longest)))
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        if not low < high:
            raise settings.refuse(f"{name}.high_freq_factor", f"{high} is not above low_freq_factor={low}")
        return {"rope_theta": theta, "rope_scaling": RopeScaling("llama3", number("factor"), original, low, high)}
    factor = number("factor", longest / original)
    if given.get("attention_factor") is not None:
        gain = number("attention_factor")
    elif given.get("mscale") and given.get("mscale_all_dim"):
        gain = _gain(factor, number("mscale")) / _gain(factor, number("mscale_all_dim"))
    else:
        gain = _gain(factor, 1.0)
    low, high = number("beta_slow", 1.0), number("beta_fast", 32.0)
    scaling = RopeScaling("yarn", factor, original, low, high, bool(given.get("truncate", True)), gain)
    return {"rope_theta": theta, "rope_scaling": scaling}


def _gain(factor: float, scale: float) -> float:
    """What yarn multiplies rotated queries and keys by. Source: Peng et al. 2023."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """One set of rotary parameters."""
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    found: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": theta, "factor": scaling.factor}
    if scaling.kind == "linear":
        return found
    found["original_max_position_embeddings"] = scaling.original
    if scaling.kind == "llama3":
        return found | {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    return found | {
        "attention_factor": scaling.gain,
        "beta_slow": scaling.low,
        "beta_fast": scaling.high,
        "truncate": scaling.truncate,
    }


def _mapping(settings: Settings, key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise settings.refuse(key, f"{value!r} is not a group of settings")
    return value
