"""Records to token examples, and the two rules of truncation.

A prompt longer than ``max_prompt`` tokens keeps its last ``max_prompt``. A response of at most ``max_response`` - 1
tokens is followed by the end-of-sequence token; a longer one keeps its first ``max_response`` tokens and has no
end-of-sequence token, because it did not end: the same as a sampled response that was cut off.

With a chat template (``tokenizer.chat``) prompts are turns, and the end-of-sequence token is what ends a turn there.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from rlhf_jax.data.records import Prompt, Record, asked
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TruncationCounts:
    """How many prompts and responses were cut, of how many."""

    prompts: int = 0
    responses: int = 0
    total_prompts: int = 0
    total_responses: int = 0

    def __add__(self, other: "TruncationCounts") -> "TruncationCounts":
        return TruncationCounts(
            self.prompts + other.prompts,
            self.responses + other.responses,
            self.total_prompts + other.total_prompts,
            self.total_responses + other.total_responses,
        )


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """A prompt to answer: its token ids and its place in the split."""

    ids: np.ndarray
    index: int


@dataclasses.dataclass(frozen=True)
class SFTExample:
    """A demonstration: token ids of the prompt and of the response (end of sequence included, if it ended)."""

    prompt: np.ndarray
    response: np.ndarray


@dataclasses.dataclass(frozen=True)
class ListExample:
    """A list of responses and what was said of them: prompt ids, the ids of each response, ranks (0 best, equal = tie),
    the prompt's type. The rest is as in ``records``: comparisons that the ranks do not tell (None: they tell all, ():
    nothing was compared), the margin, who judged, and verdicts on single responses.
    """

    prompt: np.ndarray
    responses: tuple[np.ndarray, ...]
    ranks: tuple[int, ...]
    prompt_type: str
    index: int
    edges: tuple[tuple[int, int], ...] | None = None
    margin: float = 0.0
    annotator: str = ""
    labels: tuple[float | None, ...] = ()
    scores: tuple[float | None, ...] = ()

    def comparisons(self) -> tuple[Bool[np.ndarray, "n n"], Bool[np.ndarray, "n n"]]:
        """(better, tied): whether response i was judged better than j, directly or through others; or equal to it."""
        ranks = np.array(self.ranks)
        if self.edges is None:
            return ranks[:, None] < ranks[None, :], (ranks[:, None] == ranks[None, :]) & ~np.eye(len(ranks), dtype=bool)
        better = np.zeros((len(ranks), len(ranks)), bool)
        for above, below in self.edges:
            better[above, below] = True
        for middle in range(len(ranks)):  # what is better than the better one is better
            better |= better[:, middle, None] & better[None, middle, :]
        return better, np.zeros_like(better)


def types_in_turn(examples: Sequence[ListExample], count: int) -> list[ListExample]:
    """The first ``count`` lists when prompt types take turns, each type in its own order; all if there are fewer."""
    seen: Counter[str] = Counter()
    turns = []
    for place, example in enumerate(examples):
        turns.append((seen[example.prompt_type], place))
        seen[example.prompt_type] += 1
    return [examples[place] for _, place in sorted(turns)[:count]]


def encode_prompt(tokenizer: Tokenizer, text: str, max_prompt: int) -> tuple[np.ndarray, bool]:
    """(ids, whether cut) of a plain text. Raises UserError for a prompt without any token."""
    return _end_of(tokenizer.encode(text), text, max_prompt)


def encode_response(tokenizer: Tokenizer, text: str, max_response: int) -> tuple[np.ndarray, bool]:
    """(ids, whether cut) of a plain text; ``max_response`` counts the end-of-sequence token."""
    return _beginning_of(tokenizer.encode(text), tokenizer.eos_id, max_response)


def encoded(
    tokenizer: Tokenizer, dialogues: Sequence[tuple[Prompt, Sequence[str]]], max_prompt: int, max_response: int
) -> Iterable[tuple[tuple[np.ndarray, bool], list[tuple[np.ndarray, bool]]]]:
    """(ids, whether cut) of each prompt and of its responses, in order.

    Raises UserError for a prompt without any token, or a dialogue that the chat template refuses.
    """
    if tokenizer.chat is not None:
        found: Iterable[tuple[list[int], list[list[int]]]] = tokenizer.chat.encode(dialogues)
    else:
        found = ((tokenizer.encode(str(one)), [tokenizer.encode(text) for text in texts]) for one, texts in dialogues)
    for (one, _), (prompt, responses) in zip(dialogues, found, strict=True):
        yield (
            _end_of(prompt, one, max_prompt),
            [_beginning_of(ids, tokenizer.eos_id, max_response) for ids in responses],
        )


def _end_of(ids: list[int], prompt: Prompt, most: int) -> tuple[np.ndarray, bool]:
    if not ids:
        raise UserError(f"prompt {prompt!r:.60} has no tokens")
    return np.asarray(ids[-most:], np.int32), len(ids) > most


def _beginning_of(ids: list[int], eos_id: int, most: int) -> tuple[np.ndarray, bool]:
    cut = len(ids) > most - 1
    return np.asarray(ids[:most] if cut else [*ids, eos_id], np.int32), cut


def prompt_rows(
    records: Sequence[Record], tokenizer: Tokenizer, max_prompt: int
) -> tuple[list[PromptRow], TruncationCounts]:
    """Prompts in the order of the records; ``index`` is the place in ``records``."""
    dialogues = [(asked(record, turns=tokenizer.chat is not None), ()) for record in records]
    found = [prompt for prompt, _ in encoded(tokenizer, dialogues, max_prompt, 1)]
    rows = [PromptRow(ids, index) for index, (ids, _) in enumerate(found)]
    return rows, TruncationCounts(prompts=sum(cut for _, cut in found), total_prompts=len(rows))


def sft_examples(
    pairs: Sequence[tuple[Prompt, str]], tokenizer: Tokenizer, max_prompt: int, max_response: int
) -> tuple[list[SFTExample], TruncationCounts]:
    """Demonstrations from (prompt, response), in order."""
    examples, counts = [], TruncationCounts()
    dialogues = [(prompt, (response,)) for prompt, response in pairs]
    for (prompt, prompt_cut), ((response, response_cut),) in encoded(tokenizer, dialogues, max_prompt, max_response):
        examples.append(SFTExample(prompt, response))
        counts += TruncationCounts(prompt_cut, response_cut, 1, 1)
    return examples, counts


def list_examples(
    records: Sequence[Record], tokenizer: Tokenizer, max_prompt: int, max_response: int
) -> tuple[list[ListExample], TruncationCounts]:
    """Lists, in order; one in which no response has a rank compares none. Raises UserError if only some have one."""
    examples, counts = [], TruncationCounts()
    chat = tokenizer.chat is not None
    dialogues = [(asked(record, turns=chat), [one.text for one in record.responses]) for record in records]
    found = encoded(tokenizer, dialogues, max_prompt, max_response)
    for index, (record, ((prompt, prompt_cut), responses)) in enumerate(zip(records, found, strict=True)):
        ranks = tuple(response.rank for response in record.responses if response.rank is not None)
        if 0 < len(ranks) < len(responses):
            raise UserError(f"{record.id}: responses: a ranked list needs a rank for every response")
        examples.append(
            ListExample(
                prompt=prompt,
                responses=tuple(ids for ids, _ in responses),
                ranks=ranks or (0,) * len(responses),
                prompt_type=record.prompt_type,
                index=index,
                edges=record.edges if ranks else (),
                margin=record.margin or 0.0,
                annotator=record.annotator,
                labels=tuple(response.label for response in record.responses),
                scores=tuple(response.score for response in record.responses),
            )
        )
        counts += TruncationCounts(prompt_cut, sum(cut for _, cut in responses), 1, len(responses))
    return examples, counts
