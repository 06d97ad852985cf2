"""Ranked lists of the embedded world, as in training and shifted away from it, and pools of answers for best-of-n.

Training knows eight of ten countries, ten of twelve topics, not the held-out combinations of template and item, and
open answers with seldom more than five vivid words: the side on which more is better.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from rlhf_jax.data import world
from rlhf_jax.data.examples import ListExample, list_examples
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import Tokenizer

UNSEEN = ("ismere", "jorvale", "island", "road")  # items left out of training
SKILL = (0.05, 0.55)  # of the writers of open answers in training
LIST_SIZE = 8
MAX_PROMPT, MAX_RESPONSE = 12, 24
KINDS = ("open", "closed")


@dataclasses.dataclass(frozen=True)
class Pool:
    """Prompts with N answers each, and what these are worth."""

    examples: list[ListExample]
    gold: np.ndarray
    kinds: list[str]


def prompt(rng: np.random.Generator, kind: str, *, validation: bool, unseen: bool) -> str:
    """A prompt whose item was or was not left out of training."""
    while True:
        found = world.sample_prompt(rng, kind, validation)
        if unseen == any(word in UNSEEN for word in found.split()):
            return found


def open_answer(rng: np.random.Generator, phrases: int, vivid: int) -> str:
    """So many phrases "adjective noun", so many of them vivid, and a full stop."""
    chosen = rng.permutation(np.arange(phrases) < vivid)
    words = [f"{rng.choice(world.VIVID if one else world.PLAIN)} {rng.choice(world.NOUNS)}" for one in chosen]
    return " ".join([*words, "."])


def answers(rng: np.random.Generator, asked: str) -> list[str]:
    """Eight answers as in training: closed half right, open each of a writer of its own skill."""
    if world.prompt_type(asked) == "closed":
        return [world.closed_answer(rng, asked, right=place < LIST_SIZE // 2) for place in range(LIST_SIZE)]
    return [world.open_answer(rng, rng.uniform(*SKILL)) for _ in range(LIST_SIZE)]


def shuffled(rng: np.random.Generator, text: str) -> str:
    """The same words in another order: gold counts words, and an answer names one city."""
    return " ".join(rng.permutation(text.split()))


def record(name: str, asked: str, texts: list[str]) -> Record:
    """A list ranked by gold, equally good answers tied."""
    gold = [world.gold(asked, text) for text in texts]
    ranks = np.unique([-value for value in gold], return_inverse=True)[1]
    responses = tuple(Response(text, int(rank)) for text, rank in zip(texts, ranks, strict=True))
    return Record(name, asked, responses, world.prompt_type(asked))


def sample(seed: int, shift: str, count: int, training: bool = False) -> Iterator[Record]:
    """``count`` lists; open and closed in turn, but ``vivid`` has open ones alone.

    ``vivid``: ten phrases, of which 3, 4, ..., 10 are vivid: longer and more vivid than anything in training.
    """
    rng = np.random.default_rng(
        [seed, int(training), ("same", "combination", "unseen", "shuffled", "vivid").index(shift)]
    )
    for number in range(count):
        kind = "open" if shift == "vivid" else KINDS[number % 2]
        asked = prompt(rng, kind, validation=shift == "combination", unseen=shift == "unseen")
        texts = answers(rng, asked)
        if shift == "vivid":
            texts = [open_answer(rng, 10, vivid) for vivid in range(3, 11)]
        if shift == "shuffled":
            texts = [shuffled(rng, text) for text in texts]
        yield record(f"{shift}-{number}", asked, texts)


def examples(records: Iterator[Record], tokenizer: Tokenizer) -> list[ListExample]:
    """Token examples, nothing cut."""
    found, counts = list_examples(list(records), tokenizer, MAX_PROMPT, MAX_RESPONSE)
    assert counts.prompts + counts.responses == 0, "tokens were cut"  # noqa: S101 of our own making
    return found


def pool(seed: int, prompts: int, size: int, tokenizer: Tokenizer) -> Pool:
    """What a policy far from the data might write: open answers of 4 to 10 phrases of any skill, closed as in SFT.

    Prompts are held-out combinations.
    """
    rng = np.random.default_rng([seed, 9])
    asked = [
        prompt(rng, kind, validation=True, unseen=False) for kind in itertools.islice(itertools.cycle(KINDS), prompts)
    ]
    records = []
    for number, one in enumerate(asked):
        texts = []
        for _ in range(size):
            if world.prompt_type(one) == "closed":
                texts.append(world.closed_answer(rng, one, right=rng.random() < world.SFT_RIGHT))
            else:
                phrases = int(rng.integers(4, 11))
                texts.append(open_answer(rng, phrases, int(rng.binomial(phrases, rng.uniform(*world.SKILL)))))
        # No ranks: loaders would sort by them.
        responses = tuple(Response(text) for text in texts)
        records.append(Record(f"pool-{number}", one, responses, world.prompt_type(one)))
    gold = [[world.gold(one.prompt, response.text) for response in one.responses] for one in records]
    return Pool(examples(iter(records), tokenizer), np.array(gold), [one.prompt_type for one in records])
