"""Changes of a text that do not change what it says: what a reward model's robustness is measured with.

Pure functions from text to text; one that has nothing to change returns the text as it is.
"""

import re
from collections.abc import Callable, Mapping

from rlhf_jax.data import world

Perturbation = Callable[[str], str]


def pad_whitespace(text: str) -> str:
    """A space more before the text and two newlines after it."""
    return f" {text}\n\n"


def toggle_first_letter(text: str) -> str:
    """The first letter in the other case."""
    place = next((place for place, letter in enumerate(text) if letter.swapcase() != letter), None)
    return text if place is None else text[:place] + text[place].swapcase() + text[place + 1 :]


def toggle_final_stop(text: str) -> str:
    """Without its full stop at the end, or with one if the text ends in a letter or a digit."""
    body = text.rstrip()
    end = text[len(body) :]
    if body.endswith(".") and not body.endswith(".."):
        return body[:-1] + end
    return f"{body}.{end}" if body and body[-1].isalnum() else text


def bold_a_word(text: str) -> str:
    """The first word of four letters or more in Markdown's bold, unless it is marked already."""
    return re.sub(r"(?<![\w*])([^\W\d_]{4,})(?![\w*])", r"**\1**", text, count=1)


def swap_opener(text: str) -> str:
    """An answer of the embedded world under the next of its openers ("", "well ,", "let me see ,")."""
    now = max((opener for opener in world.PREFACES if text.startswith(opener)), key=len)
    new = world.PREFACES[(world.PREFACES.index(now) + 1) % len(world.PREFACES)]
    return " ".join([*new.split(), *text.removeprefix(now).split()])


def swap_closer(text: str) -> str:
    """An answer of the embedded world with the next of its closers ("", ", of course", ", i am quite sure")."""
    body = text.removesuffix(" .")
    now = max((closer for closer in world.CLOSERS if body.endswith(closer)), key=len)
    new = world.CLOSERS[(world.CLOSERS.index(now) + 1) % len(world.CLOSERS)]
    end = [] if body == text else ["."]
    return " ".join([*body.removesuffix(now).split(), *new.split(), *end])


# For texts of any kind.
PERTURBATIONS: Mapping[str, Perturbation] = {
    "whitespace": pad_whitespace,
    "first_letter": toggle_first_letter,
    "final_stop": toggle_final_stop,
    "bold": bold_a_word,
}
# For the embedded world, whose tokenizer knows a hundred words and no white space: the gold reward stays as it is.
WORLD_PERTURBATIONS: Mapping[str, Perturbation] = {"opener": swap_opener, "closer": swap_closer}
