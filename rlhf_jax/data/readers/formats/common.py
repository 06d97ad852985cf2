"""What every format is: a function from a row and the user's settings to records."""

import dataclasses
from collections.abc import Callable, Sequence

from rlhf_jax.data.readers.checks import BadRow, Row
from rlhf_jax.data.readers.ranking import distinct, ranked
from rlhf_jax.data.records import Message, Record, Response


@dataclasses.dataclass(frozen=True)
class Settings:
    """How rows are read: the text around bare prompts, scores closer than ``tie_margin`` are tied, and whether the
    judgement of a row is the "overall" one or those of its annotators "apart"."""

    template: str = "{prompt}"
    tie_margin: float = 0.0
    annotators: str = "overall"


@dataclasses.dataclass(frozen=True)
class Found:
    """The records of one row, those without a name of their own with an empty ``id``; how many repeated responses
    were dropped, and how many annotators gave no judgement."""

    records: tuple[Record, ...]
    duplicates: int = 0
    skipped: int = 0


Reader = Callable[[Row, Settings], Found]


def pair(chosen: Response, rejected: Response) -> tuple[Response, Response]:
    """The two with ranks 0 and 1."""
    if chosen.text.strip() == rejected.text.strip():
        raise BadRow("rejected: equals chosen" + ("" if chosen.text == rejected.text else " but for white space"))
    return dataclasses.replace(chosen, rank=0), dataclasses.replace(rejected, rank=1)


def ranked_list(
    prompt: str,
    responses: Sequence[Response],
    field: str,
    tie_margin: float = 0.0,
    turns: tuple[Message, ...] = (),
    annotator: str = "",
) -> Found:
    """A list of at least two different responses, repeated ones left out; ``field`` is where they are."""
    kept = distinct(responses)
    if len(kept) < 2:
        raise BadRow(f"{field}: {len(kept)} distinct, at least 2 are needed")
    record = Record("", prompt, ranked(kept, tie_margin), messages=turns, annotator=annotator)
    return Found((record,), duplicates=len(responses) - len(kept))
