"""FLOPs that the mathematics of a program asks for, from sizes alone: what is known as model FLOPs.

A product with a matrix of n parameters is 2n FLOPs a token; attention is 4 FLOPs a channel, a query and a key, of all
keys of a row, those in a query's future too. Of embeddings, norms and the rest, nothing is counted. All tokens count in
all layers, though CPUs leave out what nobody reads of the last one.
"""

import jax

from rlhf_jax.models import DecoderSpec, init_decoder

Work = float  # FLOPs, on all devices together


def matrices(spec: DecoderSpec) -> int:
    """Parameters of all layers' matrices."""
    layers = jax.eval_shape(lambda key: init_decoder(spec, key)["layers"], jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(layers) if leaf.ndim == 3)


def reading_rows(spec: DecoderSpec, rows: int, length: int, predicted: int) -> Work:
    """``rows`` of ``length`` tokens read at once, logits made for ``predicted`` of each."""
    body = 2.0 * matrices(spec) * rows * length
    attention = 4.0 * spec.depth * spec.heads * spec.head_dim * rows * length * length
    return body + attention + 2.0 * spec.width * spec.vocab_size * rows * predicted


def reading_lists(
    spec: DecoderSpec, lists: int, columns: int, prompt: int, response: int, predicted: int, *, shared: bool
) -> Work:
    """Prompts and ``columns`` responses to each, logits made for ``predicted`` tokens of a response; ``shared``: a
    prompt is read once for all of them, in two levels.
    """
    if not shared:
        return reading_rows(spec, lists * columns, prompt + response, predicted)
    tokens, pairs = prompt + columns * response, prompt * prompt + columns * response * (prompt + response)
    body = 2.0 * matrices(spec) * lists * tokens
    attention = 4.0 * spec.depth * spec.heads * spec.head_dim * lists * pairs
    return body + attention + 2.0 * spec.width * spec.vocab_size * lists * columns * predicted


def decoding(spec: DecoderSpec, rows: int, prompt: int, response: int) -> Work:
    """A prompt read at once, then one token after the other but the last; each looks at all slots of the cache."""
    tokens, slots = response - 1, prompt + response
    attention = 4.0 * spec.depth * spec.heads * spec.head_dim * rows * slots * tokens
    body = 2.0 * matrices(spec) * rows * tokens
    return reading_rows(spec, rows, prompt, 1) + body + attention + 2.0 * spec.width * spec.vocab_size * rows * tokens


def backward(forward: Work, trained: str) -> Work:
    """Forward and backward pass: twice more for all, of which adapters leave out the gradients of matrices."""
    return forward * {"all": 3.0, "adapters": 2.0, "head": 1.0}[trained]
