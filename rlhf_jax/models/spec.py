"""What a decoder is made of."""

import dataclasses
from typing import Literal

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies for longer texts than the ``original`` positions of pre-training, by ``factor``.

    linear: all are divided by the factor. llama3: the slow ones are, the fast ones are left, between ``low`` and
    ``high`` turns over the original positions the two are mixed. yarn: the same between ``low`` (there beta_slow) and
    ``high`` (beta_fast) turns, along a ramp over channels, whose ends are whole channels if ``truncate``; rotated
    queries and keys are multiplied by ``gain``.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original: int = 0
    low: float = 1.0
    high: float = 32.0
    truncate: bool = True
    gain: float = 1.0


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """The shape and style of a decoder-only transformer.

    Parameters are kept in float32 (float64 when ``dtype`` says so); ``dtype`` is what matrix products are computed in.
    ``kv_heads`` < ``heads`` is grouped-query attention: each key-value head serves heads / kv_heads query heads.

    The options after ``rope_theta`` are those of published families; docs/models.md says which has which. ``local``
    has an entry for each layer (or none: no layer is local): a local layer sees the last ``window`` tokens, its own
    among them, and rotates by ``local_rope_theta``, without scaling, where that is not 0.
    """

    vocab_size: int
    width: int = 64
    depth: int = 2
    heads: int = 4
    kv_heads: int = 2
    mlp_width: int = 128
    norm: Literal["rms", "layer", "rms1p"] = "rms"  # rms1p multiplies by 1 + its weight
    positions: Literal["rotary", "learned"] = "rotary"
    activation: Literal["swiglu", "geglu", "gelu", "gelu_erf"] = "swiglu"  # gelu, geglu: the tanh approximation
    tied: bool = True
    max_positions: int = 1024
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    head_size: int = 0  # channels of a head; 0: width / heads
    qkv_bias: bool = False
    out_bias: bool = False  # of the attention's output
    mlp_bias: bool = False
    qk_norm: bool = False  # queries and keys of each head are normalized before they rotate
    post_norms: bool = False  # what attention and feed-forward network add is normalized too
    parallel: bool = False  # both read the layer's input, and their sum is added
    scaled_embeddings: bool = False  # by sqrt(width)
    query_scale: float = 0.0  # of attention scores; 0: 1 / sqrt(head_dim)
    attention_softcap: float = 0.0  # scores are cap * tanh(score / cap); 0: as they are
    logit_softcap: float = 0.0  # next-token logits likewise
    local: tuple[bool, ...] = ()
    window: int = 0
    rotary_fraction: float = 1.0  # of the channels of a head that rotate, the first
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float = 0.0
    attention: Literal["auto", "plain", "blockwise", "cudnn", "splash"] = (
        "auto"  # the kernel; auto: the platform's, if it can
    )
    remat: Literal["none", "full", "dots"] = "none"  # what the backward pass computes again, instead of keeping it

    def __post_init__(self) -> None:
        if len(self.local) not in (0, self.depth):
            raise ValueError(f"local has {len(self.local)} entries for {self.depth} layers")
        if any(self.local) != (self.window > 0):
            raise ValueError(f"a window of {self.window} tokens with local={self.local}")
        if self.local_rope_theta and self.rope_scaling and self.rope_scaling.gain != 1.0:
            raise ValueError("a gain of rotations holds for all layers, or there is none")

    @property
    def head_dim(self) -> int:
        return self.head_size or self.width // self.heads

    @property
    def rotary_dim(self) -> int:
        return int(self.head_dim * self.rotary_fraction)

    @property
    def attention_scale(self) -> float:
        return self.query_scale or self.head_dim**-0.5

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
