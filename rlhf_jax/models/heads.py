"""Scalar heads on a decoder: the reward model and the value model."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.decoder import apply_decoder
from rlhf_jax.models.masks import positions_of
from rlhf_jax.models.spec import DecoderSpec
from rlhf_jax.types import Params


def init_scalar_head(spec: DecoderSpec, key: jax.Array) -> Params:
    """A reward head of standard deviation 1 / sqrt(D + 1). Source: Ziegler et al. 2019, released code.

    Without a bias, as the heads of sequence classifiers in transformers are, so that a reward model can leave as one.
    """
    return {"kernel": jax.random.normal(key, (spec.width,), spec.param_dtype) * (spec.width + 1) ** -0.5}


def _head(params: Params, hidden: Float[Array, "*S D"]) -> Float[Array, "*S"]:
    # The last reduction is kept out of bfloat16: neighbouring rewards would round to one number.
    wide = hidden.astype(params["kernel"].dtype)
    return wide @ params["kernel"] + params.get("bias", 0.0)


def last_token(mask: Bool[Array, "B T"]) -> Int[Array, "B"]:
    """Index of the last real token of each row (0 for a row without any)."""
    length = mask.shape[1]
    return (length - 1 - jnp.argmax(mask[:, ::-1], axis=1)) * jnp.any(mask, axis=1)


def apply_reward_model(
    spec: DecoderSpec, params: Params, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], *, bounded: bool
) -> Float[Array, "B"]:
    """Reward of each row, read at its last real token: in [0, 1] through a sigmoid when ``bounded``, else the logit.

    ``params`` holds ``decoder`` and ``head``. Padding may stand on either side.
    """
    return read_reward(params["head"], apply_to_last(spec, params["decoder"], ids, mask, mask), bounded=bounded)


def apply_to_last(
    spec: DecoderSpec, params: Params, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], ends: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """The final hidden state of the last token of each row that ``ends`` marks."""
    return apply_decoder(spec, params, ids, positions_of(mask), mask, lambda x: at_last(x, ends)[:, None])[:, 0]


def at_last(hidden: Float[Array, "B T *D"], mask: Bool[Array, "B T"]) -> Float[Array, "B *D"]:
    """What belongs to the last real token of each row."""
    place = last_token(mask).reshape(-1, *[1] * (hidden.ndim - 1))
    return jnp.take_along_axis(hidden, place, axis=1)[:, 0]


def read_reward(head: Params, last: Float[Array, "B D"], *, bounded: bool) -> Float[Array, "B"]:
    """What ``head`` says of the final hidden states of last tokens: rewards, as in ``apply_reward_model``."""
    logit = _head(head, last)
    return jax.nn.sigmoid(logit) if bounded else logit


def apply_value_model(
    spec: DecoderSpec, params: Params, ids: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """Value at each token: the expected return after having read the tokens up to and including it."""
    hidden = apply_decoder(spec, params["decoder"], ids, positions_of(mask), mask)
    return read_values(params["head"], hidden)


def read_values(head: Params, hidden: Float[Array, "B T D"]) -> Float[Array, "B T"]:
    """What ``head`` says of final hidden states: the value at each token, as in ``apply_value_model``."""
    return _head(head, hidden)


def init_token_heads(spec: DecoderSpec, key: jax.Array, count: int) -> Params:
    """``count`` heads that judge every token, each as a reward head but with a bias: verdicts have base rates."""
    kernel = jax.random.normal(key, (spec.width, count), spec.param_dtype) * (spec.width + 1) ** -0.5
    return {"kernel": kernel, "bias": jnp.zeros((count,), spec.param_dtype)}


def apply_token_heads(
    spec: DecoderSpec, params: Params, ids: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T A"]:
    """The logit of each of A heads at each token, having read the tokens up to and including it.

    ``params`` holds ``decoder`` and ``heads``. Padding may stand on either side.
    """
    hidden = apply_decoder(spec, params["decoder"], ids, positions_of(mask), mask)
    wide = hidden.astype(params["heads"]["kernel"].dtype)
    return wide @ params["heads"]["kernel"] + params["heads"]["bias"]


def value_from_reward(params: Params, *, bounded: bool) -> Params:
    """Value-model parameters started from a reward model: the same decoder, its head, and a bias of its own.

    A bounded reward is sigmoid(logit), while a value is linear in the hidden state; the head then starts as the tangent
    of the sigmoid at logit 0, that is 1/2 + logit / 4.
    """
    kernel = params["head"]["kernel"]
    scale, bias = (0.25, 0.5) if bounded else (1.0, 0.0)
    return {"decoder": params["decoder"], "head": {"kernel": scale * kernel, "bias": jnp.asarray(bias, kernel.dtype)}}


def silent_value_head(spec: DecoderSpec) -> Params:
    """A value head that says 0 of everything, to be trained on any decoder. Source: Ziegler et al. 2019."""
    return {"kernel": jnp.zeros((spec.width,), spec.param_dtype), "bias": jnp.zeros((), spec.param_dtype)}
