"""Dialogues as text, by one rule, and what their last turns are.

A single turn of the user is its content inside the template. Any other dialogue is a transcript: the content of a
system message in front, then "\\n\\nHuman: ..." for the user, "\\n\\nAssistant: ..." for the assistant,
"\\n\\nTool: ..." for a tool and "\\n\\nSystem: ..." for a later system message, and "\\n\\nAssistant:" at the end.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from rlhf_jax.data.readers.checks import BadRow, messages, valid_text
from rlhf_jax.data.records import Message, Record

ASSISTANT, HUMAN = "\n\nAssistant:", "\n\nHuman:"
_SPEAKERS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": ASSISTANT, "tool": "\n\nTool:"}
_TURN = re.compile(f"({'|'.join(_SPEAKERS.values())})")
TRANSCRIPTS = ("hh", "nectar", "text")  # formats whose prompts are transcripts already


def render(turns: Sequence[Message], template: str) -> str:
    """The prompt that ``turns`` make, which do not end with the assistant's."""
    if len(turns) == 1 and turns[0].role == "user":
        return template.replace("{prompt}", turns[0].content)
    parts = [
        turn.content if turn.role == "system" and not place else f"{_SPEAKERS[turn.role]} {turn.content}"
        for place, turn in enumerate(turns)
    ]
    return "".join([*parts, ASSISTANT])


def prompt_of(value: Any, field: str, template: str) -> tuple[str, tuple[Message, ...]]:
    """(text, messages) of a prompt given as a string, which has no messages, or as a list of messages."""
    if not isinstance(value, list):
        return template.replace("{prompt}", valid_text(value, field)), ()
    turns = messages(value, field)
    if turns[-1].role == "assistant":
        raise BadRow(f"{field}: ends with a turn of the assistant, which leaves nothing to answer")
    return render(turns, template), turns


def last_turns(dialogues: Sequence[tuple[str, Sequence[Message]]]) -> tuple[tuple[Message, ...], list[str]]:
    """(the turns shared by all of the (field, dialogue), the assistant's last turn of each)."""
    first = dialogues[0]
    for field, turns in dialogues:
        if turns[-1].role != "assistant":
            raise BadRow(f"{field}: the last turn is the {turns[-1].role}'s, not the assistant's")
        if len(turns) < 2:
            raise BadRow(f"{field}: no turn before the assistant's")
        if turns[:-1] != first[1][:-1]:
            raise BadRow(f"{field}: prompts do not match (differs from {first[0]} before the last turn)")
    shared = tuple(first[1][:-1])
    if shared[-1].role == "assistant":
        raise BadRow(f"{first[0]}: two turns of the assistant at the end")
    return shared, [turns[-1].content for _, turns in dialogues]


def turns_of(transcript: str) -> tuple[Message, ...]:
    """The turns that ``render`` makes a transcript of, the last of them to be answered; each without the white
    space around it. BadRow if it is none."""
    pieces = _TURN.split(transcript)
    front, speakers, bodies = pieces[0].strip(), pieces[1::2], [piece.strip() for piece in pieces[2::2]]
    if not speakers or speakers[-1] != ASSISTANT or bodies[-1]:
        raise BadRow('prompt: no dialogue that ends with "Assistant:"')
    roles = {mark: role for role, mark in _SPEAKERS.items()}
    turns = [Message("system", front)] if front else []
    turns += [Message(roles[mark], body) for mark, body in zip(speakers[:-1], bodies[:-1], strict=True)]
    if not turns:
        raise BadRow('prompt: no turn before "Assistant:"')
    empty = next((turn for turn in turns if not turn.content), None)
    if empty is not None:
        raise BadRow(f"prompt: an empty turn of the {empty.role}")
    return tuple(turns)


def in_turns(record: Record, data_format: str) -> Record:
    """The record with ``messages``, for a chat template: a bare prompt is what a user said, and transcripts are taken
    apart, without the white space around their turns. BadRow if there are no turns in one."""
    if record.messages:
        return record
    if data_format not in TRANSCRIPTS:
        return dataclasses.replace(record, messages=(Message("user", record.prompt),))
    responses = tuple(dataclasses.replace(one, text=one.text.strip()) for one in record.responses)
    return dataclasses.replace(record, messages=turns_of(record.prompt), responses=responses)
