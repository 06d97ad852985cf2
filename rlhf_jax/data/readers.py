"""Users' preference files: JSON lines (plain or gzip) of ranked lists or of chosen/rejected dialogues.

Ranked lists: ``{"prompt": str, "responses": [{"text": str, "score": float?, "rank": int?, "model": str?}, ...],
"prompt_type": str?}``. Dialogues: ``{"chosen": str, "rejected": str}``, two texts that share all but the last turn
of the assistant. The two are told apart by their fields.
"""

import dataclasses
import gzip
import hashlib
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from rlhf_jax.data.records import Record, Response
from rlhf_jax.errors import UserError

FORMATS = ("auto", "lists", "hh")
REJECTED_FRACTION = 0.01
_ASSISTANT = "\n\nAssistant:"
_HUMAN = "\n\nHuman:"


@dataclasses.dataclass(frozen=True)
class ReadResult:
    """Records of a file and what was set aside: bad rows as (line, reason), and repeated texts inside lists."""

    records: list[Record]
    rows: int
    rejected: list[tuple[int, str]]
    duplicates: int


class _BadRow(Exception):
    """A row that cannot be used; the message is "field: reason"."""


def read_records(
    path: str | os.PathLike[str],
    data_format: str = "auto",
    template: str = "{prompt}",
    tie_margin: float = 0.0,
    on_bad_row: str = "error",
    rejects_path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> list[Record]:
    """The records of ``read_file``, without its counts."""
    return read_file(path, data_format, template, tie_margin, on_bad_row, rejects_path, limit).records


def read_file(
    path: str | os.PathLike[str],
    data_format: str = "auto",
    template: str = "{prompt}",
    tie_margin: float = 0.0,
    on_bad_row: str = "error",
    rejects_path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> ReadResult:
    """Read and check a file, at most ``limit`` rows of it.

    ``template`` wraps the bare prompts of ranked lists. Ranks come from, in this order: the field ``rank``; the field
    ``score`` (see ``tiers``); the order of the list, best first. Of identical texts in a list the first is kept.

    A bad row raises UserError "file:line: field: reason" under "error"; under "skip" it is left out and listed in
    ``rejects_path``, and UserError is raised at the end if more than 1 % of a whole file was bad. A file that is
    missing, empty or a damaged gzip raises UserError under both.
    """
    if data_format not in FORMATS:
        raise UserError(f"data.format: {data_format!r} is not one of {FORMATS}")
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"data.on_bad_row: {on_bad_row!r} is not 'error' or 'skip'")
    if "{prompt}" not in template:
        raise UserError(f"data.template: {template!r} does not contain {{prompt}}")
    name = pathlib.Path(path).name
    records: list[Record] = []
    rejected: list[tuple[int, str]] = []
    rows = duplicates = 0
    for line, data in _lines(path):
        if limit is not None and rows == limit:
            break
        rows += 1
        try:
            row = _parse(data)
            record, repeated = _record(f"{name}:{line}", row, data_format, template, tie_margin)
        except _BadRow as error:
            if on_bad_row == "error":
                raise UserError(f"{path}:{line}: {error}") from None
            rejected.append((line, str(error)))
            continue
        records.append(record)
        duplicates += repeated
    if on_bad_row == "skip" and rejects_path is not None:
        with open(rejects_path, "w", encoding="utf-8") as out:
            out.writelines(json.dumps({"line": line, "reason": reason}) + "\n" for line, reason in rejected)
    if not rows:
        raise UserError(f"{path}:1: file: empty")
    # The share of a whole file: its head may hold more than its part.
    if limit is None and len(rejected) > REJECTED_FRACTION * rows:
        line, reason = rejected[0]
        raise UserError(f"{path}:{line}: {reason} (and in all {len(rejected)} bad rows of {rows}, more than 1 %)")
    return ReadResult(records, rows, rejected, duplicates)


def tiers(scores: Sequence[float], tie_margin: float) -> list[int]:
    """Dense ranks, 0 for the highest score.

    From the top down, a score joins the current tier if it is less than ``tie_margin`` below the tier's best score,
    or equal to it; otherwise it opens the next tier. So no tier is wider than the margin.
    """
    ranks = [0] * len(scores)
    rank, best = -1, math.inf
    for place in sorted(range(len(scores)), key=lambda place: -scores[place]):
        if scores[place] != best and not best - scores[place] < tie_margin:
            rank, best = rank + 1, scores[place]
        ranks[place] = rank
    return ranks


def split_records(
    records: Sequence[Record], validation_fraction: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """(train, validation), decided by a hash of the prompt: a prompt never falls on both sides.

    The fraction is met in expectation. Raises UserError if it is outside [0, 1), or leaves either side empty.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"data.validation_fraction: {validation_fraction} is outside [0, 1)")
    train: list[Record] = []
    validation: list[Record] = []
    for record in records:
        digest = hashlib.blake2b(f"{seed}:{record.prompt}".encode(), digest_size=8).digest()
        held_out = int.from_bytes(digest, "big") < validation_fraction * 2**64
        (validation if held_out else train).append(record)
    if not train or (validation_fraction > 0 and not validation):
        side = "validation" if train else "training"
        raise UserError(f"data.validation_fraction: {validation_fraction} of {len(records)} records leaves no {side}")
    return train, validation


def sft_pairs(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(prompt, best response) of each record that has a response; the first of equals."""
    return [
        (record.prompt, min(record.responses, key=lambda response: response.rank or 0).text)
        for record in records
        if record.responses
    ]


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of the lines that are not blank."""
    line = 0
    try:
        with open(path, "rb") as probe:
            zipped = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else open(path, "rb") as file:
            for line, data in enumerate(file, start=1):
                if line == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                if data.strip():
                    yield line, data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}:{line + 1}: file: truncated or damaged gzip ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: file: cannot be read ({error.strerror})") from error


def _parse(data: bytes) -> dict[str, Any]:
    try:
        row = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _BadRow(f"row: invalid UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise _BadRow(f"row: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise _BadRow(f"row: expected an object, found {type(row).__name__}")
    return row


def _record(name: str, row: dict[str, Any], data_format: str, template: str, tie_margin: float) -> tuple[Record, int]:
    if data_format == "auto":
        if "chosen" in row or "rejected" in row:
            data_format = "hh"
        elif "prompt" in row or "responses" in row:
            data_format = "lists"
        else:
            raise _BadRow("row: neither 'chosen' and 'rejected' nor 'prompt' and 'responses'")
    if data_format == "hh":
        return _dialogue(name, row), 0
    return _ranked_list(name, row, template, tie_margin)


def _dialogue(name: str, row: dict[str, Any]) -> Record:
    chosen, rejected = _text(row, "chosen", "chosen"), _text(row, "rejected", "rejected")
    if chosen == rejected:
        raise _BadRow("rejected: equals chosen")
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = next((place for place, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))
    end = chosen.rfind(_ASSISTANT, 0, shared)
    if end < 0:
        raise _BadRow("rejected: prompts do not match (no shared text up to an assistant turn)")
    end += len(_ASSISTANT)
    texts = (chosen[end:], rejected[end:])
    for field, text in zip(("chosen", "rejected"), texts, strict=True):
        if not text.strip():
            raise _BadRow(f"{field}: empty response text")
        if _ASSISTANT in text or _HUMAN in text:
            raise _BadRow(f"{field}: prompts do not match (the texts part before the last turn)")
    if texts[0].strip() == texts[1].strip():
        raise _BadRow("rejected: equals chosen but for white space")
    return Record(name, chosen[:end], tuple(Response(text, rank) for rank, text in enumerate(texts)))


def _ranked_list(name: str, row: dict[str, Any], template: str, tie_margin: float) -> tuple[Record, int]:
    prompt = _text(row, "prompt", "prompt")
    kind = _text(row, "prompt_type", "prompt_type") if row.get("prompt_type") is not None else ""
    items = row.get("responses")
    if not isinstance(items, list):
        raise _BadRow("responses: missing" if items is None else f"responses: expected a list, found {_type(items)}")
    kept: dict[str, Response] = {}
    for place, item in enumerate(items):
        response = _response(f"responses[{place}]", item)
        kept.setdefault(response.text, response)
    responses = list(kept.values())
    if len(responses) < 2:
        raise _BadRow(f"responses: {len(responses)} distinct, at least 2 are needed")
    if _given(responses, "rank"):
        ranks = tiers([-float(response.rank or 0) for response in responses], 0.0)
    elif _given(responses, "score"):
        ranks = tiers([response.score or 0.0 for response in responses], tie_margin)
    else:
        ranks = list(range(len(responses)))
    ranked = [dataclasses.replace(response, rank=rank) for response, rank in zip(responses, ranks, strict=True)]
    ranked.sort(key=lambda response: response.rank or 0)
    return Record(name, template.replace("{prompt}", prompt), tuple(ranked), kind), len(items) - len(kept)


def _response(field: str, item: Any) -> Response:
    if not isinstance(item, dict):
        raise _BadRow(f"{field}: expected an object, found {_type(item)}")
    text = _text(item, "text", f"{field}.text", "empty response text")
    rank, score = item.get("rank"), item.get("score")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < 2**31):
        raise _BadRow(f"{field}.rank: expected a whole number from 0, found {rank!r:.40}")
    if score is not None:
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise _BadRow(f"{field}.score: expected a number, found {_type(score)}")
        try:
            score = float(score)
        except OverflowError:
            score = math.inf
        if not math.isfinite(score):
            raise _BadRow(f"{field}.score: not finite")
    source = item.get("model")
    return Response(text, rank, score, source if isinstance(source, str) else "")


def _given(responses: Sequence[Response], field: str) -> bool:
    """Whether all responses carry the field; a list where only some do has no order."""
    missing = [getattr(response, field) is None for response in responses]
    if any(missing) and not all(missing):
        raise _BadRow(f"responses: {field} given for some responses only")
    return not any(missing)


def _text(row: dict[str, Any], key: str, field: str, empty: str = "empty text") -> str:
    value = row.get(key)
    if value is None:
        raise _BadRow(f"{field}: missing")
    if not isinstance(value, str):
        raise _BadRow(f"{field}: expected a string, found {_type(value)}")
    if not value.strip():
        raise _BadRow(f"{field}: {empty}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _BadRow(f"{field}: lone surrogate, not valid Unicode") from None
    return value


def _type(value: Any) -> str:
    return type(value).__name__
