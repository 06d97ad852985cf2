"""The local task of the embedded world: answers of several phrases, and what is wrong with each of them.

A prompt asks for a description of a place in one of ten countries. Phrases are what commas and full stops separate.
A phrase can have three defects, and the answer a fourth:

- ``plain``: it has no vivid word;
- ``repeated``: it brings no noun, or one that has occurred before in the answer;
- ``wrong_city``: it names a city that is not the capital of the prompt's country (naming none is fine);
- ``short``: there are fewer than five phrases.

The true quality is the share of good phrases, of five where there are fewer: one minus a sum of local defects. Words
are those of ``world.vocabulary()``. All functions are pure; randomness comes from a given generator.
"""

import functools
import re

import numpy as np

from rlhf_jax.data import world
from rlhf_jax.data.records import Record, Response, Span

PHRASE_KINDS = ("plain", "repeated", "wrong_city")
KINDS = (*PHRASE_KINDS, "short")
VIVID, PLAIN, NOUNS, CITIES = (frozenset(words) for words in (world.VIVID, world.PLAIN, world.NOUNS, world.CITIES))
ENOUGH = 5  # phrases of a whole answer
SEED = 20230602
SPLITS = {"sft": 4000, "lists": 1000, "lists_validation": 128, "prompts": 2000, "prompts_validation": 128}
LIST_SIZE = 8

TEMPLATES = (
    "describe the {} of {} in the evening .",
    "describe the {} of {} at dawn .",
    "tell me about the {} of {} in winter .",
    "what is the {} of {} like in summer ?",
    "write a line about the {} of {} .",
    "paint the {} of {} in words .",
)
# How often a writer of demonstrations is vivid, uses a new noun, names the right city; and writers of lists: from, to.
SFT_SKILL = 0.5
SKILL = (0.05, 0.95)
CITY = 0.5  # how often a phrase names a city
PHRASES = (3, 6)


def phrases(response: str) -> list[list[tuple[int, int]]]:
    """The words of each phrase, as half-open ranges of characters; separators belong to none."""
    found: list[list[tuple[int, int]]] = [[]]
    for match in re.finditer(r"[^\s,.]+|[,.]", response):
        if match.group() in ",.":
            found.append([])
        else:
            found[-1].append(match.span())
    return [words for words in found if words]


def spans_of(prompt: str, response: str) -> tuple[Span, ...]:
    """Every defect, in the order of the text: the words at fault, or the phrase or answer that lacks something."""
    capital = next((world.CAPITALS[word] for word in prompt.split() if word in world.CAPITALS), None)
    used: set[str] = set()
    found = []

    def mark(kind: str, words: list[tuple[int, int]]) -> None:
        found.append(Span(words[0][0], words[-1][1], 0.0, kind))

    parts = phrases(response)
    for words in parts:
        texts = [response[start:end] for start, end in words]
        if not any(text in VIVID for text in texts):
            mark("plain", [word for word, text in zip(words, texts, strict=True) if text in PLAIN][:1] or words)
        old, nouns = [], 0
        for word, text in zip(words, texts, strict=True):
            if text in NOUNS:
                nouns += 1
                old += [word] if text in used else []
                used.add(text)
        if old or not nouns:
            mark("repeated", old[:1] or words)
        wrong = [word for word, text in zip(words, texts, strict=True) if text in CITIES and text != capital]
        if wrong and capital:
            mark("wrong_city", wrong[:1])
    if len(parts) < ENOUGH:
        found.append(Span(0, len(response), 0.0, "short"))
    return tuple(found)


def defects(prompt: str, response: str) -> dict[str, float]:
    """Of each kind of defect its share of the phrases (0 without a phrase); ``short``: the share of five missing."""
    spans, count = spans_of(prompt, response), len(phrases(response))
    shares = {kind: sum(span.kind == kind for span in spans) / max(count, 1) for kind in PHRASE_KINDS}
    return {**shares, "short": max(ENOUGH - count, 0) / ENOUGH}


def gold_local(prompt: str, response: str) -> float:
    """True quality in [0, 1]: phrases without a defect, over all phrases or over five if there are fewer."""
    return _gold(phrases(response), spans_of(prompt, response))


def _gold(parts: list[list[tuple[int, int]]], spans: tuple[Span, ...]) -> float:
    starts = [span.start for span in spans if span.kind != "short"]
    good = sum(not any(words[0][0] <= start < words[-1][1] for start in starts) for words in parts)
    return good / max(len(parts), ENOUGH)


def sample_prompt(rng: np.random.Generator, validation: bool) -> str:
    """A prompt, uniform over the combinations of template, place and country of its side of the split."""
    combinations = _combinations(validation)
    template, topic, country = combinations[int(rng.integers(len(combinations)))]
    return template.format(topic, country)


def answer(rng: np.random.Generator, prompt: str, skill: tuple[float, float, float]) -> str:
    """Three to six phrases "adjective noun" or "adjective noun in city", by a writer of three skills in [0, 1]: the
    probabilities of a vivid adjective, of a noun that is new, and of the right city where one is named.
    """
    capital = next(world.CAPITALS[word] for word in prompt.split() if word in world.CAPITALS)
    used: list[str] = []
    written = []
    for _ in range(rng.integers(PHRASES[0], PHRASES[1] + 1)):
        adjective = world.choice(rng, world.VIVID if rng.random() < skill[0] else world.PLAIN)
        new = [noun for noun in world.NOUNS if noun not in used]
        noun = world.choice(rng, new if rng.random() < skill[1] or not used else used)
        used.append(noun)
        words = [adjective, noun]
        if rng.random() < CITY:
            wrong = [city for city in world.CITIES if city != capital]
            words += ["in", capital if rng.random() < skill[2] else world.choice(rng, wrong)]
        written.append(" ".join(words))
    return " , ".join(written) + " ."


@functools.cache
def load_local(split: str, list_size: int = LIST_SIZE, *, kept: bool = False) -> tuple[Record, ...]:
    """The records of a split, as ``world_builder.load_world``; lists best first by gold, shorter answers before longer.

    ``kept`` gives answers of equal gold one rank. Every response is marked by ``spans_of``.
    """
    rng = np.random.default_rng([SEED, list(SPLITS).index(split)])
    records = []
    for number in range(SPLITS[split]):
        prompt = sample_prompt(rng, split.endswith("_validation"))
        texts: list[str] = []
        if split == "sft":
            texts = [answer(rng, prompt, (SFT_SKILL,) * 3)]
        elif split.startswith("lists"):
            # All are drawn whatever the size of a list, so that the prompts of a split do not depend on it.
            texts = [answer(rng, prompt, tuple(rng.uniform(*SKILL, 3))) for _ in range(LIST_SIZE)][:list_size]
        records.append(_record(f"{split}-{number}", prompt, texts, kept))
    return tuple(records)


def _record(name: str, prompt: str, texts: list[str], kept: bool) -> Record:
    spans = {text: spans_of(prompt, text) for text in texts}
    gold = {text: _gold(phrases(text), spans[text]) for text in texts}
    ordered = sorted(texts, key=lambda text: (-gold[text], len(text.split()), text))
    levels = sorted(set(gold.values()), reverse=True)
    responses = tuple(
        Response(
            text,
            rank=levels.index(gold[text]) if kept else place,
            score=gold[text],
            source="world",
            spans=spans[text],
        )
        for place, text in enumerate(ordered)
    )
    return Record(name, prompt, responses, "open")


@functools.cache
def _combinations(validation: bool) -> tuple[tuple[str, str, str], ...]:
    """Each pair of a place and a country is held out under exactly one template."""
    return tuple(
        (template, topic, country)
        for i, template in enumerate(TEMPLATES)
        for j, topic in enumerate(world.TOPICS)
        for k, country in enumerate(world.KEYS)
        if ((j + k) % len(TEMPLATES) == i) == validation
    )
