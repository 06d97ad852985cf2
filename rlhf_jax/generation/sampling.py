"""How the next token is drawn."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """temperature 0 is greedy; top_k 0 and top_p 1 keep the whole vocabulary. Ties with the k-th token are kept too."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def sample_token(spec: SamplingSpec, key: jax.Array, logits: Float[Array, "V"]) -> Int[Array, ""]:
    """One token id from softmax(logits / temperature), restricted to the top-k tokens and then to the top-p nucleus.

    The nucleus is the smallest set of most probable tokens whose total probability reaches top_p; ties with its last
    one are kept too.
    """
    if spec.temperature == 0.0:
        return _first(logits == jnp.max(logits))
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    weights = jnp.exp((logits - jnp.max(logits)) / spec.temperature)
    if spec.top_k > 0:
        weights = jnp.where(weights >= _least_kept(weights, jnp.ones_like(weights), float(spec.top_k)), weights, 0.0)
    if spec.top_p < 1.0:
        least = _least_kept(weights, weights, spec.top_p * jnp.sum(weights))
        weights = jnp.where(weights >= least, weights, 0.0)
    # Half a step from 0, from which on a first token of any chance, however small, would be drawn.
    return draw_index(jax.random.uniform(key, (2,), weights.dtype) + jnp.finfo(weights.dtype).eps / 2, weights)


def draw_index(uniform: Float[Array, "2"], weights: Float[Array, "V"]) -> Int[Array, ""]:
    """An index in proportion to its weight, of which none is negative and the sum need not be 1.

    By inversion of the distribution function, in two stages: the first of two numbers from [0, 1) chooses a block of
    about sqrt(V) neighbours, the second one of them. Noise for each index, as in the Gumbel-max trick, would cost more
    than all else here; and sums over few terms are exact enough for an unlikely token to keep its chance.
    """
    size = 2 ** round(math.log2(len(weights)) / 2)
    blocks = jnp.pad(weights, (0, -len(weights) % size)).reshape(-1, size)
    block = _inverse(uniform[0], jnp.sum(blocks, axis=1))
    index = block * size + _inverse(uniform[1], blocks[block])
    return jnp.minimum(index, len(weights) - 1)  # of weights that are no numbers too


def _inverse(uniform: Float[Array, ""], weights: Float[Array, "N"]) -> Int[Array, ""]:
    """The first index, among those of positive weight, up to which the weights exceed this part of their sum."""
    below = jnp.where(weights > 0, jnp.cumsum(weights), 0.0)
    return _first(below > uniform * jnp.max(below))


def _first(found: Bool[Array, "N"]) -> Int[Array, ""]:
    """The first True (the last place without any). On CPUs an argmax takes more than twice as long."""
    last = len(found) - 1
    return jnp.min(jnp.where(found, jnp.arange(len(found)), last))


def _least_kept(
    weights: Float[Array, "V"], amounts: Float[Array, "V"], enough: Float[Array, ""] | float
) -> Float[Array, ""]:
    """The least w in [0, 1] such that the amounts of all weights above it are short of ``enough``.

    That is the weight of the last token of a descending list that is cut where the amounts before reach ``enough``.
    Found by bisection over the bits of a float, which for numbers from 0 on are ordered as they are: exact, and without
    a sort of the vocabulary.
    """
    whole = jnp.dtype(f"int{jnp.finfo(weights.dtype).bits}")

    def as_float(bits: Int[Array, ""]) -> Float[Array, ""]:
        return jax.lax.bitcast_convert_type(bits, weights.dtype)

    def halve(_: Int[Array, ""], span: tuple[Int[Array, ""], Int[Array, ""]]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        low, high = span
        middle = low + (high - low) // 2
        short = jnp.sum(jnp.where(weights > as_float(middle), amounts, 0.0)) < enough
        return jnp.where(short, low, middle + 1), jnp.where(short, middle, high)

    one = jax.lax.bitcast_convert_type(jnp.ones((), weights.dtype), whole)
    return as_float(jax.lax.fori_loop(0, 8 * whole.itemsize, halve, (jnp.zeros((), whole), one))[1])
