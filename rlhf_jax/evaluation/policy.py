"""A policy on held-out prompts: what it writes, and what its text is worth where the truth is known."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rlhf_jax.data.records import Record
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.types import PromptBatch

Gold = Callable[[str, str], float]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """One completion a prompt, in the order of the prompts; ``lengths`` in tokens, end of sequence included."""

    texts: list[str]
    lengths: np.ndarray


def decode_responses(tokenizer: Tokenizer, ids: np.ndarray, mask: np.ndarray) -> list[str]:
    """The text of each row of response ids."""
    return [tokenizer.decode(row[kept]) for row, kept in zip(np.asarray(ids), np.asarray(mask), strict=True)]


def sample_completions(
    complete: Callable[[PromptBatch, int], tuple[np.ndarray, np.ndarray]],
    batches: Iterable[PromptBatch],
    tokenizer: Tokenizer,
) -> Sampled:
    """Answer every prompt of one pass over ``batches``; ``complete(batch, number)`` gives response ids and mask."""
    texts: list[str] = []
    lengths: list[np.ndarray] = []
    for number, batch in enumerate(batches):
        real = np.asarray(batch.index) >= 0
        ids, mask = (np.asarray(array)[real] for array in complete(batch, number))
        texts += decode_responses(tokenizer, ids, mask)
        lengths.append(mask.sum(axis=1))
    return Sampled(texts, np.concatenate(lengths))


def gold_metrics(prompts: Sequence[Record], responses: Sequence[str], gold: Gold | None) -> dict[str, float]:
    """``gold.open`` and ``gold.closed``: the mean true reward by prompt type, ``gold`` of prompts without one; empty
    without a truth."""
    if gold is None:
        return {}
    values: dict[str, list[float]] = {}
    for prompt, response in zip(prompts, responses, strict=True):
        values.setdefault(prompt.prompt_type, []).append(gold(prompt.prompt, response))
    return {f"gold.{kind}" if kind else "gold": float(np.mean(found)) for kind, found in sorted(values.items())}


def diversity_metrics(responses: Sequence[str]) -> dict[str, float]:
    """How varied one policy's responses are, all prompts together; words are what whitespace separates.

    ``unique``: share of distinct texts. ``distinct_2``: distinct pairs of neighbouring words over all such pairs
    (Li et al. 2016, arXiv 1510.03055), 0 without a pair. Both fall as responses grow in number: compare equal ones.
    """
    pairs = [pair for text in responses for pair in itertools.pairwise(text.split())]
    return {
        "unique": len(set(responses)) / max(len(responses), 1),
        "distinct_2": len(set(pairs)) / max(len(pairs), 1),
    }
