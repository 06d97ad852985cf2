"""One answer or none: TRL's unpaired preferences, demonstrations and prompts."""

import re

from rlhf_jax.data.readers.checks import BadRow, Row, label, messages, text, valid_text
from rlhf_jax.data.readers.dialogue import ASSISTANT, HUMAN, last_turns, prompt_of, render
from rlhf_jax.data.readers.formats.common import Found, Settings
from rlhf_jax.data.records import Message, Record, Response

BEGINNING = 8
_WORD = re.compile(r"\S+")
EMPTY = "empty response text"


def unpaired(row: Row, settings: Settings) -> Found:
    """``{"prompt", "completion", "label": bool}``, texts or messages."""
    prompt, turns, body = _completion(row, settings)
    return Found((Record("", prompt, (Response(body, label=label(row.get("label"), "label")),), messages=turns),))


def demonstration(row: Row, settings: Settings) -> Found:
    """``{"prompt", "completion"}``, texts or messages."""
    prompt, turns, body = _completion(row, settings)
    return Found((Record("", prompt, (Response(body),), messages=turns),))


def conversation(row: Row, settings: Settings) -> Found:
    """``{"messages"}``: the last turn of the assistant is the demonstration."""
    turns, (body,) = last_turns([("messages", messages(row.get("messages"), "messages"))])
    return Found((Record("", render(turns, settings.template), (Response(body),), messages=turns),))


def plain_text(row: Row, settings: Settings) -> Found:
    """``{"text"}``: a transcript is cut after its last "Assistant:"; any other text after its first words, half of them
    but at most ``BEGINNING``: a run has to have something to answer."""
    whole = text(row, "text")
    end = whole.rfind(ASSISTANT)
    if end >= 0:
        end += len(ASSISTANT)
        if HUMAN in whole[end:]:
            raise BadRow("text: the last turn is the user's, not the assistant's")
    else:
        words = list(_WORD.finditer(whole))
        if len(words) < 2:
            raise BadRow("text: a single word, at least 2 are needed")
        end = words[min(len(words) // 2, BEGINNING) - 1].end()
    return Found((Record("", whole[:end], (Response(valid_text(whole[end:], "text", EMPTY)),)),))


def prompt_only(row: Row, settings: Settings) -> Found:
    """``{"prompt"}``, a text or messages: something to answer."""
    prompt, turns = prompt_of(row.get("prompt"), "prompt", settings.template)
    return Found((Record("", prompt, (), messages=turns),))


def _completion(row: Row, settings: Settings) -> tuple[str, tuple[Message, ...], str]:
    """(prompt, turns, completion)."""
    prompt, turns = prompt_of(row.get("prompt"), "prompt", settings.template)
    if not isinstance(row.get("completion"), list):
        return prompt, turns, text(row, "completion", empty=EMPTY)
    before = turns or (Message("user", text(row, "prompt")),)
    shared, (body,) = last_turns([("completion", (*before, *messages(row["completion"], "completion", EMPTY)))])
    return render(shared, settings.template), shared, body
