"""The models that benchmarks are run with, and the arithmetic that work on them asks for."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; ``llama`` has three matrices in the feed-forward network, GPT-2 two."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    llama: bool = True

    @property
    def feed_forward(self) -> int:
        """Parameters of the matrices of a layer's feed-forward network."""
        return (3 if self.llama else 2) * self.width * self.mlp_width

    @property
    def matrices(self) -> int:
        """Parameters of the matrices of all layers."""
        return self.depth * (4 * self.width**2 + self.feed_forward)

    @property
    def parameters(self) -> int:
        """Of matrices and embeddings; the output matrix is the embedding."""
        return self.matrices + self.vocabulary * self.width

    def reading(self, lengths: Iterable[int], read: int, predicted: int, after: int = 0) -> float:
        """FLOPs of reading texts of these lengths, each after ``after`` tokens that are in the cache already, with
        final hidden states of ``read`` tokens in all and logits of ``predicted``.

        Two a parameter and token; attention of each token to the tokens before it and itself, and to none after. Of the
        last layer's output of attention and feed-forward network only the tokens that are read have a need.
        """
        lengths = list(lengths)
        seen = sum(length * after + length * (length + 1) / 2 for length in lengths)
        unread = 2.0 * (self.width**2 + self.feed_forward) * (sum(lengths) - read)
        body = 2.0 * self.matrices * sum(lengths) - unread + 4.0 * self.depth * self.width * seen
        return body + 2.0 * self.width * self.vocabulary * predicted

    def decoding_bytes(self, rows: int, prompt: int, tokens: int) -> float:
        """Bytes that sampling reads at least: all float32 parameters and what the cache holds, at every token."""
        slots = sum(prompt + t for t in range(1, tokens))
        return 4.0 * (self.parameters * (tokens - 1) + 2 * self.depth * self.width * rows * slots)


TRAINING = 3.0  # forward and backward pass, in forward passes

MODELS = {
    "tiny": Shape(vocabulary=4096, width=64, depth=2, heads=4, mlp_width=192),
    "small": Shape(vocabulary=8192, width=512, depth=6, heads=8, mlp_width=1536),
    "gpt2": Shape(vocabulary=50257, width=768, depth=12, heads=12, mlp_width=3072, llama=False),
}
