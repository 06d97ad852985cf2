"""``lists``, the format of this package: every kind of feedback that a ``Record`` holds.

``{"prompt": text or messages, "responses": [{"text", "rank"?, "score"?, "label"?, "model"?, "critique"?, "refined"?,
"spans"?: [{"start", "end", "label", "kind"?}]}, ...], "id"?, "prompt_type"?, "annotator"?, "margin"?, "edges"?}``
"""

from collections.abc import Sequence
from typing import Any

from rlhf_jax.data.readers.checks import (
    BadRow,
    Row,
    label,
    listed,
    margin,
    name,
    optional_number,
    optional_text,
    spans,
    table,
    text,
    valid_text,
    whole,
)
from rlhf_jax.data.readers.dialogue import prompt_of
from rlhf_jax.data.readers.formats.common import Found, Settings
from rlhf_jax.data.readers.ranking import Edges, distinct, ordered, ranked
from rlhf_jax.data.records import Record, Response


def read(row: Row, settings: Settings) -> Found:
    """One record. Of identical texts the first is kept; a single response needs feedback of its own."""
    prompt, turns = prompt_of(row.get("prompt"), "prompt", settings.template)
    kind = text(row, "prompt_type") if row.get("prompt_type") is not None else ""
    given = [_response(f"responses[{place}]", item) for place, item in enumerate(listed(row, "responses"))]
    kept = distinct(given)
    responses: tuple[Response, ...]
    edges: Edges | None = None
    if len(kept) == 1 and _judged(kept[0]) and row.get("edges") is None:
        responses = (kept[0] if kept[0].rank is None else ranked(kept)[0],)
    elif len(kept) < 2:
        raise BadRow(f"responses: {len(kept)} distinct, at least 2 are needed where none has feedback of its own")
    elif row.get("edges") is not None:
        responses, edges = ordered(given, _edges(row, given))
    else:
        responses = ranked(kept, settings.tie_margin)
    record = Record(
        name(row, "id"), prompt, responses, kind, turns, name(row, "annotator"), margin=margin(row), edges=edges
    )
    return Found((record,), duplicates=len(given) - len(kept))


def _response(field: str, item: Any) -> Response:
    row = table(item, field)
    body = text(row, "text", f"{field}.text", "empty response text")
    source = row.get("model")
    return Response(
        text=body,
        rank=None if row.get("rank") is None else whole(row["rank"], f"{field}.rank"),
        score=optional_number(row, "score", f"{field}.score"),
        source=source if isinstance(source, str) else "",
        label=None if row.get("label") is None else label(row["label"], f"{field}.label"),
        critique=optional_text(row, "critique", f"{field}.critique"),
        refined=valid_text(row["refined"], f"{field}.refined") if row.get("refined") is not None else "",
        spans=spans(row, field, len(body)),
    )


def _judged(response: Response) -> bool:
    judged = response.label is not None or response.score is not None
    return judged or bool(response.critique or response.refined or response.spans)


def _edges(row: Row, responses: Sequence[Response]) -> Edges:
    """Comparisons by place in the row's list; without ranks beside them, and without repeated texts."""
    if any(response.rank is not None for response in responses):
        raise BadRow("edges: given beside ranks; a list has one or the other")
    if len(distinct(responses)) < len(responses):
        raise BadRow("edges: responses repeat one text, so places do not name it")
    found = set()
    for place, item in enumerate(listed(row, "edges")):
        if not isinstance(item, list) or len(item) != 2:
            raise BadRow(f"edges[{place}]: expected [better, worse]")
        found.add(tuple(whole(end, f"edges[{place}]", most=len(responses) - 1) for end in item))
    if not found:
        raise BadRow("edges: no comparisons")
    return tuple(sorted(found))  # type: ignore[arg-type]  # of pairs
