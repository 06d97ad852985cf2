"""Parts of a response that feedback can point at: the whole, its sentences, its sub-sentences or its tokens.

Segments are half-open ranges of characters, in order, from the first character of their first word to the last of their
last one: the white space between two belongs to neither. Words are what white space separates.

- A sentence ends after a word that ends in one of . ! ? (closing quotes and brackets may follow), or with the text.
- Sub-sentences: within a sentence there is a cut after a word that ends in one of , ; ! ? if more than ``least`` words
  of the sentence follow and the piece before it has at least ``least`` words. A shorter piece is joined to the piece
  before it; the first of a sentence goes on to the next cut. Source: Wu et al. 2023, arXiv 2306.01693, released code,
  where ``least`` is 5.
"""

import bisect
import dataclasses
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.data.examples import TruncationCounts, encode_prompt
from rlhf_jax.data.records import Record, Response, Span
from rlhf_jax.data.tokenizers import Tokenizer

LEVELS = ("sequence", "sentence", "sub_sentence", "token")
LEAST = 5
GOOD = 1.0  # the label of what no span speaks of
SENTENCE_END = re.compile(r"[.!?][\"'\u2019\u201d)\]]*$")
CLAUSE_ENDS = ",;!?"

Range: TypeAlias = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Aspect:
    """What one fine-grained reward judges: the ``kind`` of its spans, and the ``level`` at which it is paid."""

    kind: str
    level: str


@dataclasses.dataclass(frozen=True)
class SegmentExample:
    """One response to be judged part by part: token ids of prompt and response, ``labels`` of the response's tokens.

    ``labels[t, a]`` in [0, 1] stands at the last token t of each segment of aspect a and is NaN elsewhere.
    """

    prompt: np.ndarray
    response: np.ndarray
    labels: Float[np.ndarray, "R A"]


def sentences(text: str) -> list[Range]:
    """The sentences of a text; none of one without words."""
    return [(words[0][0], words[-1][1]) for words in _sentences(text)]


def sub_sentences(text: str, least: int = LEAST) -> list[Range]:
    """The sub-sentences of a text, by the rule above; ``least`` words is at least 1."""
    found = []
    for words in _sentences(text):
        starts = [0]
        for place in range(1, len(words)):
            if text[words[place - 1][1] - 1] not in CLAUSE_ENDS or len(words) - place <= least:
                continue
            if place - starts[-1] >= least:
                starts.append(place)
            elif len(starts) > 1:
                starts[-1] = place
        ends = [*starts[1:], len(words)]
        found += [(words[start][0], words[end - 1][1]) for start, end in zip(starts, ends, strict=True)]
    return found


def segments(text: str, level: str, offsets: Sequence[Range], least: int = LEAST) -> list[Range]:
    """The segments of a text at one of ``LEVELS``; ``offsets`` are the ranges of its tokens. One whole even if empty.

    Raises ValueError for another level.
    """
    if level == "sequence":
        return [(0, len(text))]
    if level == "sentence":
        return sentences(text)
    if level == "sub_sentence":
        return sub_sentences(text, least)
    if level == "token":
        return list(offsets)
    raise ValueError(f"no level {level!r}; there are {LEVELS}")


def last_token(segment: Range, offsets: Sequence[Range]) -> int:
    """T_j: the last token that begins before the end of a segment that is not empty, 0 if none does.

    A token may hold the end of one segment and the beginning of the next: both then end no earlier than with it.
    """
    return max(bisect.bisect_left(offsets, segment[1], key=lambda token: token[0]) - 1, 0)


def label_of(segment: Range, spans: Sequence[Span], kind: str) -> float:
    """The worst label of the spans of a kind that overlap a segment; ``GOOD`` if none does."""
    start, end = segment
    labels = [span.label for span in spans if span.kind == kind and span.start < end and start < span.end]
    return min(labels, default=GOOD)


def last_tokens(
    text: str, offsets: Sequence[Range], count: int, aspects: Sequence[Aspect], least: int = LEAST
) -> list[list[tuple[Range, int]]]:
    """(segment, T_j) of every aspect, of a response of ``count`` tokens: those of ``offsets``, and the end of sequence.

    The whole ends with the last token there is, the end of sequence if it was written: where a reward model reads it.
    An empty response has no segment but the whole; one of no token at all has none.
    """
    found: list[list[tuple[Range, int]]] = []
    for aspect in aspects:
        if not count:
            found.append([])
        elif aspect.level == "sequence":
            found.append([((0, len(text)), count - 1)])
        else:
            parts = segments(text, aspect.level, offsets, least) if offsets else []
            found.append([(part, last_token(part, offsets)) for part in parts])
    return found


def ends_of(
    ids: np.ndarray, mask: Bool[np.ndarray, "N R"], tokenizer: Tokenizer, aspects: Sequence[Aspect], least: int = LEAST
) -> Float[np.ndarray, "N R A"]:
    """How many segments of each aspect end with each token of N responses (N, R), whose text is that of their ids.

    Almost always 0 or 1; two segments within one token are two.
    """
    counts = np.zeros((*ids.shape, len(aspects)), np.float32)
    for row, (own, kept) in enumerate(zip(ids, mask, strict=True)):
        text, offsets = tokenizer.decode_with_offsets(own[kept & (own != tokenizer.eos_id)])
        for column, parts in enumerate(last_tokens(text, offsets, int(kept.sum()), aspects, least)):
            for _, token in parts:
                counts[row, token, column] += 1
    return counts


def paid_parts(
    ids: Int[np.ndarray, "R"], mask: Bool[np.ndarray, "R"], dense: Float[np.ndarray, "R"], tokenizer: Tokenizer
) -> list[tuple[int, int, float]]:
    """What each part of a response was paid: (first character, the one after the last, reward), in order.

    A part goes from the end of the one before to the last token that was paid. What is paid for the end of sequence
    stands at the end of the text, as a part of no characters if all of it was paid before.
    """
    written = mask & (ids != tokenizer.eos_id)
    text, offsets = tokenizer.decode_with_offsets(ids[written])
    ends = iter(offsets)
    done, parts = 0, []
    for place in np.flatnonzero(mask):
        end = next(ends)[1] if written[place] else len(text)
        if dense[place]:
            parts.append((done, end, float(dense[place])))
            done = end
    return parts


def segment_examples(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    max_prompt: int,
    max_response: int,
    aspects: Sequence[Aspect],
    least: int = LEAST,
    *,
    unmarked: bool = True,
) -> tuple[list[SegmentExample], TruncationCounts]:
    """Every response of the records on its own, in order.

    A response without any span was read and found good if ``unmarked``, else it is left out, unless it has a label: the
    label of a response is that of the whole for the kind "". Of a response that was cut to ``max_response`` tokens the
    segments that end beyond the cut have no label, but for the whole.
    """
    examples, counts = [], TruncationCounts()
    for record in records:
        prompt, prompt_cut = encode_prompt(tokenizer, record.prompt, max_prompt)
        for response in record.responses:
            if not (unmarked or response.spans or response.label is not None):
                continue
            ids, offsets = tokenizer.encode_with_offsets(response.text)
            cut = len(ids) > max_response - 1
            ids = ids[:max_response] if cut else [*ids, tokenizer.eos_id]
            labels = _labels(response, offsets[: len(ids)], len(ids), aspects, least)
            examples.append(SegmentExample(prompt, np.asarray(ids, np.int32), labels))
            counts += TruncationCounts(responses=cut, total_responses=1)
        counts += TruncationCounts(prompts=prompt_cut, total_prompts=1)
    return examples, counts


def _labels(
    response: Response, offsets: Sequence[Range], count: int, aspects: Sequence[Aspect], least: int
) -> Float[np.ndarray, "R A"]:
    labels = np.full((count, len(aspects)), np.nan, np.float32)
    known = offsets[-1][1] if offsets else 0
    for column, parts in enumerate(last_tokens(response.text, offsets, count, aspects, least)):
        kind, whole = aspects[column].kind, aspects[column].level == "sequence"
        for part, token in parts:
            if part[1] > known and not whole:
                continue
            if whole and not kind and response.label is not None:
                label = response.label
            elif whole:  # a span of an empty response overlaps nothing, and yet it speaks of the whole
                label = min((span.label for span in response.spans if span.kind == kind), default=GOOD)
            else:
                label = label_of(part, response.spans, kind)
            labels[token, column] = np.fmin(labels[token, column], label)  # two segments in one token: the worse
    return labels


def _sentences(text: str) -> list[list[Range]]:
    """The words of each sentence."""
    found: list[list[Range]] = [[]]
    for match in re.finditer(r"\S+", text):
        found[-1].append(match.span())
        if SENTENCE_END.search(match.group()):
            found.append([])
    return [words for words in found if words]
