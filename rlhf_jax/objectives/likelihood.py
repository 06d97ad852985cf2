"""Log-probabilities of tokens, in nats."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.mesh import ROWS, platform, shards_of
from rlhf_jax.rows import each_row
from rlhf_jax.types import SEQUENCE
from rlhf_jax.unpadding import Line

Tree = TypeVar("Tree")
LogitsOf: TypeAlias = Callable[[Float[Array, "B S D"]], Float[Array, "B S V"]]

# Logits that a device reads at once. 8 MiB in float32 are what a processor's caches still hold (benchmarks/README.md);
# an accelerator has room for a GiB, and would spend its time on gathering the output matrix for each of many parts. But
# no fewer than so many tokens.
AT_ONCE, LEAST_TOKENS = {"cpu": 2**21, "other": 2**28}, 256
# As many in all are made in one piece where a gradient would ask for each part again: caches lost cost a CPU less.
IN_ONE_PIECE = {"cpu": 2**23, "other": 2**28}


def token_logprobs(
    logits: Float[Array, "T V"], targets: Int[Array, "T"], temperature: float | Float[Array, ""] = 1.0
) -> Float[Array, "T"]:
    """log p(targets[t]) in nats, for t in [0, T), under softmax(logits[t] / temperature), in at least float32."""
    return token_law(logits, targets, temperature)[0]


def token_law(
    logits: Float[Array, "T V"], targets: Int[Array, "T"], temperature: float | Float[Array, ""] = 1.0
) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
    """(``token_logprobs``, entropy of softmax(logits[t] / temperature)), t in [0, T), in nats, by one normalisation."""
    scaled = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    chosen = jnp.take_along_axis(scaled, targets[:, None], axis=-1)[:, 0]
    total = jax.nn.logsumexp(scaled, axis=-1)
    logp = scaled - total[:, None]
    return chosen - total, -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def token_hits(logits: Float[Array, "T V"], targets: Int[Array, "T"]) -> Float[Array, "T"]:
    """1 where the target is the likeliest token (of equal ones the first), 0 elsewhere, in at least float32."""
    chosen, targets = jnp.take_along_axis(logits, targets[:, None], axis=-1), targets[:, None]
    # By comparisons, which a CPU does eight at a time, where an argmax takes one logit after the other.
    first = (logits < chosen) | ((logits == chosen) & (jnp.arange(logits.shape[-1]) >= targets))
    return jnp.all(first, axis=-1).astype(jnp.promote_types(logits.dtype, jnp.float32))


def tokens_at_once(rows: int, vocabulary: int, length: int = 0) -> int:
    """Of how many tokens of each row the logits exist at the same time, where a device has so many of the rows; all of
    those of ``length`` tokens, if given, where making them again for a gradient would cost more.
    """
    device = "cpu" if platform() == "cpu" else "other"
    if 0 < rows * length * vocabulary <= IN_ONE_PIECE[device]:
        return length
    return max(AT_ONCE[device] // (rows * vocabulary), -(-LEAST_TOKENS // rows))


def chunked_logprobs(
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    logits_of: LogitsOf,
    *,
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int | None = None,
    line: Line | None = None,
) -> Float[Array, "B T"]:
    """``token_logprobs`` of every row, where ``logits_of(hidden)`` for all tokens never exists, in any precision."""
    return read_chunks(
        lambda logits, targets: token_logprobs(logits, targets, temperature),
        hidden,
        targets,
        logits_of,
        chunk=chunk,
        line=line,
    )


def read_chunks(
    read: Callable[[Float[Array, "S V"], Int[Array, "S"]], Tree],
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    logits_of: LogitsOf,
    *,
    chunk: int | None = None,
    line: Line | None = None,
) -> Tree:
    """``read(logits, targets)`` of every row: one number a token, or a tree of such; of the tokens of ``line`` alone,
    if given, with 0 elsewhere.

    The logits are made for ``chunk`` tokens of every row at a time (None: ``tokens_at_once``) and, unless these are
    all, once more for the gradient. Those are every so many-th of a row, so that each device goes on reading its own
    rows and tokens.
    """
    if line is not None:
        found = read_chunks(read, line.collect(hidden)[None], line.collect(targets)[None], logits_of, chunk=chunk)
        return jax.tree.map(lambda leaf: line.spread(leaf[0]), found)
    rows, length = targets.shape
    if chunk is None:
        vocabulary = jax.eval_shape(logits_of, hidden[:, :1]).shape[-1]
        parts = shards_of(SEQUENCE)
        chunk = tokens_at_once(-(-rows // shards_of(ROWS)), vocabulary, -(-length // parts)) * parts
    count = -(-length // chunk)
    if count <= 1:
        return each_row(read, logits_of(hidden), targets)
    size = -(-length // count)  # chunks of one size, the last filled up with tokens that nobody reads

    def split(leaf: Array) -> Array:
        widths = [(0, 0), (0, count * size - length)] + [(0, 0)] * (leaf.ndim - 2)
        return jnp.moveaxis(jnp.pad(leaf, widths).reshape(rows, size, count, *leaf.shape[2:]), 2, 0)

    def one(parts: tuple[Any, Any]) -> Tree:
        return each_row(read, logits_of(parts[0]), parts[1])

    found = jax.lax.map(jax.checkpoint(one, prevent_cse=False), (split(hidden), split(targets)))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2).reshape(rows, size * count)[:, :length], found)
