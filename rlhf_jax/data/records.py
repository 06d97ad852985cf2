"""What one row of preference data is, whatever file it came from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Response:
    """One answer. ``rank`` 0 is the best and equal ranks are ties, never compared; ``score`` is the annotator's."""

    text: str
    rank: int | None = None
    score: float | None = None
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Record:
    """A prompt and its responses: none (a prompt to answer), one (a demonstration) or a ranked list, best first.

    ``prompt_type`` names the kind of prompt ("open", "closed", or a user's own word); empty when unknown.
    """

    id: str
    prompt: str
    responses: tuple[Response, ...]
    prompt_type: str = ""
