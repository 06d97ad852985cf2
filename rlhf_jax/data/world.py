"""The embedded world: a language of a hundred words in which the true quality of every answer is known.

Closed prompts ask for the capital of one of ten invented countries, and an answer is right or wrong. Open prompts ask
for a description, and the true quality rises with the number of vivid words up to five, then falls: a reward model
that learned "more vivid is better" can be over-optimised. All functions are pure; randomness comes from a given
generator.
"""

import functools
from collections.abc import Sequence

import numpy as np

CAPITALS = {
    "arvania": "mora",
    "belland": "tisk",
    "corvia": "pell",
    "dromond": "vanta",
    "elmoria": "quill",
    "farrow": "osten",
    "galdia": "brine",
    "hestrand": "lund",
    "ismere": "kesh",
    "jorvale": "rald",
}
KEYS = tuple(CAPITALS)
CITIES = tuple(CAPITALS.values())
TOPICS = (
    "sea", "market", "garden", "mountain", "river", "forest",
    "harbour", "desert", "castle", "village", "island", "road",
)  # fmt: skip
VIVID = ("crimson", "blazing", "shimmering", "velvet", "thundering", "golden", "ghostly", "fragrant")
PLAIN = ("big", "small", "old", "new", "nice", "good", "long", "simple")
NOUNS = (
    "light", "water", "stone", "wind", "sky", "song", "cloud", "leaf",
    "shadow", "smoke", "bird", "bell", "flower", "star", "rain", "wall",
)  # fmt: skip

CLOSED_TEMPLATES = (
    "question : what is the capital of {} ?",
    "question : name the capital of {} .",
    "question : which city is the capital of {} ?",
    "question : i forgot the capital of {} , tell me .",
    "question : the capital of {} is which city ?",
)
OPEN_TEMPLATES = (
    "describe the {} in the evening .",
    "describe the {} at dawn .",
    "tell me about the {} in winter .",
    "what is the {} like in summer ?",
    "write a line about the {} .",
    "paint the {} in words .",
)
PREFACES = ("", "well ,", "let me see ,")
CORES = ("surely {}", "it is {}", "the answer is {}")
CLOSERS = ("", ", of course", ", i am quite sure")

SFT_RIGHT = 0.55
SFT_VIVID = 0.2
PHRASES = (4, 8)
SKILL = (0.05, 0.95)


def vocabulary() -> tuple[str, ...]:
    """Every word that the world can write, in a fixed order; fewer than 128."""
    phrases = CLOSED_TEMPLATES + OPEN_TEMPLATES + PREFACES + CORES + CLOSERS
    words = [word for phrase in phrases for word in phrase.split() if word != "{}"]
    return tuple(dict.fromkeys([".", *words, *KEYS, *CITIES, *TOPICS, *VIVID, *PLAIN, *NOUNS]))


def prompt_type(prompt: str) -> str:
    """ "closed" if the prompt names a country, else "open"."""
    return "closed" if any(word in CAPITALS for word in prompt.split()) else "open"


def gold(prompt: str, response: str) -> float:
    """True quality in [0, 1] of any text as an answer to any prompt.

    Closed: 1 if the first city named is the capital of the first country in the prompt, else 0. Open: with c vivid
    words anywhere in the response, max(0, 1 - ((c - 5) / 5)²). Words are what whitespace separates.
    """
    words = response.split()
    country = next((word for word in prompt.split() if word in CAPITALS), None)
    if country is not None:
        named = next((word for word in words if word in CITIES), None)
        return float(named == CAPITALS[country])
    vivid = sum(word in VIVID for word in words)
    return max(0.0, 1.0 - ((vivid - 5) / 5) ** 2)


def is_held_out(template: int, item: int, kind: str) -> bool:
    """Whether the combination of template and key or topic is kept for the validation splits.

    Each key and each topic is held out under exactly one template, so that training sees it under all others.
    """
    return item % len(_templates(kind)) == template


def sample_prompt(rng: np.random.Generator, kind: str, validation: bool) -> str:
    """A prompt of ``kind`` "open" or "closed", uniform over the combinations of its side of the split."""
    combinations = _combinations(kind, validation)
    template, item = combinations[int(rng.integers(len(combinations)))]
    return template.format(item)


def closed_answer(rng: np.random.Generator, prompt: str, right: bool) -> str:
    """An answer of 3 to 14 words naming the right capital, or a uniformly wrong one."""
    capital = CAPITALS[next(word for word in prompt.split() if word in CAPITALS)]
    city = capital if right else choice(rng, [city for city in CITIES if city != capital])
    core = choice(rng, CORES).format(city)
    return " ".join([*choice(rng, PREFACES).split(), core, *choice(rng, CLOSERS).split(), "."])


def open_answer(rng: np.random.Generator, vivid: float) -> str:
    """Four to eight phrases "adjective noun", each adjective vivid with probability ``vivid``, and a full stop."""
    words = []
    for _ in range(rng.integers(PHRASES[0], PHRASES[1] + 1)):
        words += [choice(rng, VIVID if rng.random() < vivid else PLAIN), choice(rng, NOUNS)]
    return " ".join([*words, "."])


def sft_answer(rng: np.random.Generator, prompt: str) -> str:
    """A demonstration of middling quality: right with probability 0.55, or one adjective in five vivid."""
    if prompt_type(prompt) == "closed":
        return closed_answer(rng, prompt, right=rng.random() < SFT_RIGHT)
    return open_answer(rng, SFT_VIVID)


def sample_list(rng: np.random.Generator, prompt: str, size: int) -> list[str]:
    """``size`` answers, best first by (gold descending, words ascending), no two alike in both.

    Closed: half are right. Open: each answer's writer has a skill of its own, uniform in [0.05, 0.95], so that the
    list covers the whole range of quality on both sides of the optimum.
    """
    chosen: dict[tuple[float, int], str] = {}
    while len(chosen) < size:
        if prompt_type(prompt) == "closed":
            text = closed_answer(rng, prompt, right=len(chosen) < size // 2)
        else:
            text = open_answer(rng, rng.uniform(*SKILL))
        chosen.setdefault((-gold(prompt, text), len(text.split())), text)
    return [chosen[place] for place in sorted(chosen)]


@functools.cache
def _combinations(kind: str, validation: bool) -> tuple[tuple[str, str], ...]:
    items = KEYS if kind == "closed" else TOPICS
    return tuple(
        (template, item)
        for i, template in enumerate(_templates(kind))
        for j, item in enumerate(items)
        if is_held_out(i, j, kind) == validation
    )


def _templates(kind: str) -> tuple[str, ...]:
    return CLOSED_TEMPLATES if kind == "closed" else OPEN_TEMPLATES


def choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]
