"""A family of architectures: what its ``config.json`` says, and what its tensors are called."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.models.hf.parts import Fields, Part
from rlhf_jax.models.hf.settings import REQUIRED, Settings
from rlhf_jax.models.hf.tensors import Tensor
from rlhf_jax.models.spec import DecoderSpec

# Fields that say how a decoder computes and not what.
HOW = ("dtype",)


@dataclasses.dataclass(frozen=True)
class Size:
    """A number under one key; a default that is the name of a field is the value of that field, ``times`` as much."""

    field: str
    default: Any = REQUIRED
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture, both ways.

    ``style``: fields that it fixes. ``sizes``: numbers by key, with transformers' defaults. ``only``: keys with the
    values that the decoder knows, the first of which is the default. ``parts``: the rest of its settings. ``fills``:
    fields that it has more of than a decoder needs to have. ``prefix``: of the names of all tensors but the output
    matrix, which a base model is stored without. ``buffers``: a pattern of stored names that are no parameters.
    """

    name: str
    model_type: str
    causal: str
    classifier: str
    base: str
    style: Mapping[str, Any]
    sizes: Mapping[str, Size]
    tied: bool
    parts: tuple[Part, ...]
    tensors: tuple[Tensor, ...]
    prefix: str
    buffers: str
    only: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    fills: tuple[str, ...] = ()

    def spec(self, settings: Settings) -> DecoderSpec:
        """The decoder of a ``config.json``, computing in float32.

        Raises:
          UserError: a key is missing, not known, or has a value that the decoder cannot honour.
        """
        fields: Fields = dict(self.style)
        for key, size in self.sizes.items():
            default = fields[size.default] * size.times if isinstance(size.default, str) else size.default
            read = settings.number if isinstance(default, float) else settings.size
            fields[size.field] = read(key, default)
        fields["tied"] = settings.flag("tie_word_embeddings", self.tied)
        if fields["depth"] > 10_000:
            raise settings.refuse("layers", f"{fields['depth']} is more than anybody has")
        for key, allowed in self.only.items():
            settings.only(key, allowed)
        for part in self.parts:
            fields |= part.read(settings, fields)
        settings.finish()
        return DecoderSpec(**fields)

    def settings(self, spec: DecoderSpec) -> dict[str, Any]:
        """The settings of a decoder, which ``spec`` reads back where ``obstacles`` finds none."""
        found = {key: getattr(spec, size.field) for key, size in self.sizes.items()}
        found |= {key: allowed[0] for key, allowed in self.only.items()}
        for part in self.parts:
            found |= part.write(spec)
        return found | {"tie_word_embeddings": spec.tied}

    def obstacles(self, spec: DecoderSpec) -> list[str]:
        """The fields that would be read back otherwise than they are: none, if the decoder is of the family."""
        back = self.spec(Settings(self.settings(spec), self.name))
        names = [field.name for field in dataclasses.fields(spec) if field.name not in HOW]
        if spec.positions == back.positions == "learned":
            names = [name for name in names if not name.startswith("rope")]
        return [name for name in names if not self._alike(name, getattr(spec, name), getattr(back, name))]

    def _alike(self, name: str, ours: Any, theirs: Any) -> bool:
        return bool(ours == theirs or (name in self.fills and ours < theirs))
