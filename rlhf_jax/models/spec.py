"""What a decoder is made of."""

import dataclasses
from typing import Literal

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """The shape and style of a decoder-only transformer.

    Parameters are kept in float32 (float64 when ``dtype`` says so); ``dtype`` is what matrix products are computed in.
    ``kv_heads`` < ``heads`` is grouped-query attention: each key-value head serves heads / kv_heads query heads.
    """

    vocab_size: int
    width: int = 64
    depth: int = 2
    heads: int = 4
    kv_heads: int = 2
    mlp_width: int = 128
    norm: Literal["rms", "layer"] = "rms"
    positions: Literal["rotary", "learned"] = "rotary"
    activation: Literal["swiglu", "gelu"] = "swiglu"
    tied: bool = True
    max_positions: int = 1024
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def param_dtype(self) -> jnp.dtype:
        return jnp.dtype("float64" if self.dtype == "float64" else "float32")


@dataclasses.dataclass(frozen=True)
class EnsembleSpec:
    """How many reward models score together; ``heads`` share one decoder, ``models`` share nothing. 1: no ensemble."""

    members: int = 1
    kind: Literal["heads", "models"] = "models"


ONE_MODEL = EnsembleSpec()
