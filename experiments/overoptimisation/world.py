"""A language of two words, small enough that every response can be written down.

A response is up to 16 words, each plain or a spice, and then an end of sequence; 16 words have none. There are 2^17 - 1
of them, and a reward is a table over them: what a policy earns, its best policies and best-of-n are sums, not samples.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

PLAIN, SPICE, EOS, VOCAB = 0, 1, 2, 3
PROMPT = PLAIN  # the one prompt is a plain word
WORDS = ("rice", "spice")
HORIZON = 16  # words
SHARE = 0.12  # of spices among the reference's words
BEST = 5  # spices, of which the gold of ``code`` is fondest
# The law of each next token under the reference, whatever came before: fixed responses never end early.
LAWS = {"fixed": (1.0 - SHARE, SHARE, 0.0), "free": (0.94 * (1.0 - SHARE), 0.94 * SHARE, 0.06)}


class Responses(NamedTuple):
    """All responses, shorter ones first; the place of one is its number."""

    ids: Int[np.ndarray, "S R"]  # EOS past the words, where it is a token once and padding then
    words: Int[np.ndarray, "S"]
    spices: Int[np.ndarray, "S"]

    @property
    def mask(self) -> Bool[np.ndarray, "S R"]:
        """The tokens: words, and the end of sequence where there is one."""
        return np.arange(HORIZON) <= self.words[:, None]


@functools.cache
def responses() -> Responses:
    """Every response of up to ``HORIZON`` words."""
    ids = np.full((2 ** (HORIZON + 1) - 1, HORIZON), EOS, np.int32)
    words = np.repeat(np.arange(HORIZON + 1), 2 ** np.arange(HORIZON + 1))
    for length in range(1, HORIZON + 1):
        places = np.arange(2**length)
        ids[2**length - 1 : 2 ** (length + 1) - 1, :length] = places[:, None] >> np.arange(length)[::-1] & 1
    return Responses(ids, words, (ids == SPICE).sum(axis=1))


def number(ids: Int[np.ndarray, "*N R"], words: Int[np.ndarray, "*N"]) -> Int[np.ndarray, "*N"]:
    """The place of responses among all; works on arrays of either library."""
    count = 0
    for slot in range(HORIZON):
        count = count + (slot < words) * (1 + count + (ids[..., slot] == SPICE))
    return count


def law(form: str) -> Float[np.ndarray, "S"]:
    """The reference's probability of each response."""
    plain, spice, end = LAWS[form]
    every = responses()
    ends = np.where(every.words < HORIZON, end, 1.0)
    return plain ** (every.words - every.spices) * spice**every.spices * ends


def sample(form: str, rng: np.random.Generator, size: tuple[int, ...]) -> Int[np.ndarray, "*size"]:
    """Numbers of responses that the reference gives."""
    tokens = rng.choice(VOCAB, p=LAWS[form], size=(*size, HORIZON))
    words = np.where((tokens == EOS).any(axis=-1), np.argmax(tokens == EOS, axis=-1), HORIZON)
    return number(tokens, words)


def text(ids: Int[np.ndarray, "R"], words: int) -> str:
    """A response as a user's function reads it."""
    return " ".join(WORDS[token] for token in ids[:words])


def coded_gold(spices: Int[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """1 - ((spices - 5) / 5)^2: more is better up to five; the reference writes more in one response of 120."""
    return 1.0 - ((spices - BEST) / BEST) ** 2
