"""Natural-language feedback on the embedded world: what is wrong with an answer, and the answer mended.

Critiques are written in the world's own words, follow from the known defects, and hold no noise. As in chains of
thought, what is needed to judge comes first and the verdict last: for closed prompts the capital asked for and the city
named, for open ones the adjectives to be exchanged, one for each that stands between the answer and five vivid words.
"""

import dataclasses
from collections.abc import Sequence

from rlhf_jax.data import world
from rlhf_jax.data.records import Record

GOOD, WRONG = "good", "forgot"
MORE, FEWER, PHRASE = "paint", "simple", "line"
BEST_VIVID = 5  # vivid words at which ``world.gold`` is 1


def critique_of(prompt: str, response: str) -> str:
    """What there is to say of ``response`` as an answer to ``prompt``; the same for the same texts.

    Closed: "capital is CAPITAL , answer is CITY : good ." or "... : forgot ."; without a city "answer is : forgot .".
    Open: "good ." at five vivid words; "paint ADJECTIVE ... ." names plain adjectives that should be vivid, with
    "line" for each phrase to be added where they do not suffice; "simple ADJECTIVE ... ." vivid ones too many. So the
    number of words between the first and the full stop is the distance from five.
    """
    country = _country(prompt)
    if country is not None:
        capital, named = world.CAPITALS[country], _named(response)
        verdict = GOOD if named == capital else WRONG
        return " ".join(["capital is", capital, ", answer is", *([named] if named else []), ":", verdict, "."])
    words = response.split()
    plain, surplus, missing = _defects(words)
    if surplus:
        return " ".join([FEWER, *(words[place] for place in surplus), "."])
    if plain or missing:
        return " ".join([MORE, *(words[place] for place in plain), *[PHRASE] * missing, "."])
    return f"{GOOD} ."


def refined_of(prompt: str, response: str) -> str:
    """``response`` mended as the critique says, with a gold reward of 1; empty if there is nothing to mend.

    Closed: the first city named becomes the capital, or "it is CAPITAL ." answers where none was named. Open: the
    adjectives that the critique lists are exchanged, and phrases added before the full stop.
    """
    words = response.split()
    country = _country(prompt)
    if country is not None:
        capital, named = world.CAPITALS[country], _named(response)
        if named == capital:
            return ""
        if named is None:
            return " ".join([*words, f"it is {capital} ."])
        place = words.index(named)
        return " ".join([*words[:place], capital, *words[place + 1 :]])
    plain, surplus, missing = _defects(words)
    if not plain and not surplus and not missing:
        return ""
    # The words put in are told by place, so that one answer is always mended in one way.
    for places, options in ((plain, world.VIVID), (surplus, world.PLAIN)):
        for place in places:
            words[place] = options[place % len(options)]
    end = len(words) - 1 if words and words[-1] == "." else len(words)
    added = [
        f"{world.VIVID[(end + number) % len(world.VIVID)]} {world.NOUNS[(end + number) % len(world.NOUNS)]}"
        for number in range(missing)
    ]
    return " ".join([*words[:end], *added, *words[end:]])


def with_critiques(record: Record) -> Record:
    """The record with a critique of every response and, where it can be mended, its refined text."""
    return dataclasses.replace(
        record,
        responses=tuple(
            dataclasses.replace(
                response,
                critique=critique_of(record.prompt, response.text),
                refined=refined_of(record.prompt, response.text),
            )
            for response in record.responses
        ),
    )


def _country(prompt: str) -> str | None:
    return next((word for word in prompt.split() if word in world.CAPITALS), None)


def _named(response: str) -> str | None:
    return next((word for word in response.split() if word in world.CITIES), None)


def _defects(words: Sequence[str]) -> tuple[list[int], list[int], int]:
    """(places of plain words to make vivid, of vivid words too many, phrases to add): in all the distance from five.

    The first of the plain words and the last of the vivid ones: the rest stays as it was written.
    """
    vivid, plain = ([place for place, word in enumerate(words) if word in kind] for kind in (world.VIVID, world.PLAIN))
    short = BEST_VIVID - len(vivid)
    if short <= 0:
        return [], vivid[BEST_VIVID:], 0
    return plain[:short], [], max(short - len(plain), 0)
