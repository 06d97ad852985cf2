"""What one row of feedback is, whatever file it came from: a prompt, responses, and what people said of them.

Human feedback is a map h: X x Y1 x ... x Yn -> F. F is numeric (``label``, ``score``), an order (``rank``, ``edges``),
natural language (``critique``, ``refined``) or local (``spans``). The ranked list is the centre: a pair is a list of
two, a demonstration or a labelled completion a list of one, a prompt to answer a list of none.
"""

import dataclasses

ROLES = ("system", "user", "assistant", "tool")


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a dialogue; ``role`` is one of ``ROLES``."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]  # a text, or the turns that a chat template is to render


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a response, characters ``start`` <= i < ``end`` of its text, and what was said of it.

    ``label`` in [0, 1]: 1 good, 0 defective. ``kind`` names the aspect that was judged ("factuality", ...), so that
    several fine-grained reward models can be told apart; empty when there is one.
    """

    start: int
    end: int
    label: float
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Response:
    """One answer and the feedback on it alone; None and empty mean that there is none.

    ``rank`` 0 is the best and equal ranks are ties. ``score`` is a scalar on the annotator's own scale, ``label`` in
    [0, 1] a verdict (0 bad, 1 good). ``critique`` says in words what is wrong, ``refined`` is the response mended.
    """

    text: str
    rank: int | None = None
    score: float | None = None
    source: str = ""
    label: float | None = None
    critique: str = ""
    refined: str = ""
    spans: tuple[Span, ...] = ()


@dataclasses.dataclass(frozen=True)
class Record:
    """A prompt and its responses: none (a prompt to answer), one (a demonstration) or a ranked list, best first.

    ``prompt`` is the text that a model reads; ``messages`` the turns it was made of, empty where the source had none.
    ``prompt_type`` names the kind of prompt ("open", "closed", or a user's own word); empty when unknown. ``annotator``
    is who judged: several annotators of one prompt are several records. ``margin`` says how much better the best
    response is than the last, on the source's scale. ``edges`` are the comparisons of a partial order that is no
    ranking by tiers, (better, worse) by place in ``responses``; then ``rank`` is the length of the longest chain of
    better responses, and does not by itself say that two responses were compared. None: the ranks say all.
    """

    id: str
    prompt: str
    responses: tuple[Response, ...]
    prompt_type: str = ""
    messages: tuple[Message, ...] = ()
    annotator: str = ""
    margin: float | None = None
    edges: tuple[tuple[int, int], ...] | None = None


def asked(record: Record, *, turns: bool) -> Prompt:
    """The prompt to encode: the text, or with ``turns`` the messages where there are any, for a chat template."""
    return record.messages if turns and record.messages else record.prompt
