"""A file of feedback, read and checked row by row."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.chat import Chat
from rlhf_jax.data.prepared import PreparedRecords, is_prepared, write_rejects
from rlhf_jax.data.readers.checks import BadRow
from rlhf_jax.data.readers.containers import open_container, parse
from rlhf_jax.data.readers.dialogue import in_turns
from rlhf_jax.data.readers.formats import FORMATS, READERS, Settings, detect
from rlhf_jax.data.readers.remote import HUB, TFDS
from rlhf_jax.data.records import Record
from rlhf_jax.errors import UserError

REJECTED_FRACTION = 0.01
ANNOTATORS = ("overall", "apart")


@dataclasses.dataclass(frozen=True)
class ReadResult:
    """Records of a file and what was set aside: bad rows as (place, reason), repeated texts inside lists, judgements
    that annotators skipped and rows without any. ``format`` is what the file was read as, ``unit`` what a place counts:
    line or row."""

    records: Sequence[Record]
    rows: int
    rejected: list[tuple[int, str]]
    duplicates: int
    skipped: int = 0
    format: str = "lists"
    unit: str = "line"


def read_file(
    path: str | os.PathLike[str],
    data_format: str = "auto",
    template: str = "{prompt}",
    tie_margin: float = 0.0,
    on_bad_row: str = "error",
    rejects_path: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    annotators: str = "overall",
    chat: Chat | None = None,
    setting: str = "",
) -> ReadResult:
    """Read and check a file, at most ``limit`` rows of it; or what ``rlhf-jax prepare`` wrote into a folder.

    ``data_format`` is one of ``FORMATS``; "auto" is that of the first row that has one, and all rows are then read in
    it. ``template`` wraps bare prompts and single questions. ``annotators``: rows with an overall preference and those
    it was made of give one record ("overall"), or one for each annotator ("apart"). ``chat`` is what the prompts and
    their responses will be rendered by: each record then has turns, and what the template refuses is a bad row.
    ``setting`` is what the user calls ``data_format``, to be told where no row is in it and one is in another.

    A bad row raises UserError "file:line: field: reason" ("file:row N" where there are no lines) under "error"; under
    "skip" it is left out and listed in ``rejects_path``, and UserError is raised at the end if more than 1 % of those
    read are bad. A file that is missing, empty or damaged, or has no judgement, raises UserError under both; so does a
    prepared folder that does not match the settings.
    """
    settings = _settings(data_format, template, tie_margin, on_bad_row, annotators)
    if is_prepared(path):
        wanted = {"format": data_format, **dataclasses.asdict(settings), "chat": "" if chat is None else chat.sha256}
        return _read_prepared(path, wanted, limit)
    if not str(path).startswith((TFDS, HUB)) and os.path.isdir(path):
        raise UserError(f"{path}: file: a folder, but not one that rlhf-jax prepare wrote")
    name = str(path) if str(path).startswith((TFDS, HUB)) else pathlib.Path(path).name
    container = open_container(path)
    unit = container.unit.strip() or "line"
    records: list[Record] = []
    origins: list[int] = []  # of each record, where it was
    rejected: list[tuple[int, str]] = []
    misread = ""  # the format that the first bad row is in, where it is not the one asked for
    places: dict[str, int] = {}
    rows = duplicates = skipped = 0
    for place, data in container.rows:
        if limit is not None and rows == limit:
            break
        rows += 1
        try:
            row = parse(data)
            if data_format == "auto":
                data_format = detect(row)
            found = READERS[data_format](row, settings)
            own = [record if chat is None else in_turns(record, data_format) for record in found.records]
            for record in own:
                if record.id and record.id in places:
                    raise BadRow(f"id: {record.id!r:.60} is also that of {unit} {places[record.id]}")
        except BadRow as error:
            if setting and not records and not misread:
                misread = _other_format(data, data_format, settings, setting)
            if on_bad_row == "error":
                raise UserError(f"{path}:{container.unit}{place}: {error}{misread}") from None
            rejected.append((place, str(error)))
            continue
        for number, record in enumerate(own, start=1):
            if record.id:
                places[record.id] = place
            else:
                part = f"#{number}" if len(own) > 1 else ""
                record = dataclasses.replace(record, id=f"{name}:{container.unit}{place}{part}")
            records.append(record)
            origins.append(place)
        duplicates += found.duplicates
        skipped += found.skipped or not own  # a task that nobody has answered yet
    if chat is not None:
        refused = _refused(chat, records, origins)
        if refused and on_bad_row == "error":
            place, why = refused[0]
            raise UserError(f"{path}:{container.unit}{place}: {why}")
        rejected = sorted([*rejected, *refused])
        bad = {place for place, _ in refused}
        records = [record for record, place in zip(records, origins, strict=True) if place not in bad]
    if on_bad_row == "skip" and rejects_path is not None:
        write_rejects(rejects_path, rejected, unit)
    if not rows:
        raise UserError(f"{path}:1: file: empty")
    whole = limit is None or rows < limit
    if len(rejected) > REJECTED_FRACTION * rows:
        place, reason = rejected[0]
        total = f"and in all {len(rejected)} bad rows of {'' if whole else 'the first '}{rows}, more than 1 %"
        raise UserError(f"{path}:{container.unit}{place}: {reason} ({total}){'' if records else misread}")
    if not records and whole:
        raise UserError(f"{path}: file: no judgement in {rows} rows, {skipped} were skipped by their annotators")
    return ReadResult(records, rows, rejected, duplicates, skipped, data_format, unit)


def _other_format(data: Any, data_format: str, settings: Settings, setting: str) -> str:
    """What to say of a row that is bad in the format asked for and good in the one that its fields tell of."""
    try:
        row = parse(data)
        found = detect(row)
        if found == data_format:
            return ""
        READERS[found](row, settings)
    except BadRow:
        return ""
    return f"; looks like format {found}; set {setting}={found} or auto"


def _refused(chat: Chat, records: Sequence[Record], places: Sequence[int]) -> list[tuple[int, str]]:
    """(place, reason) of each row with a record that the chat template refuses, in order."""
    found: dict[int, str] = {}
    dialogues = [
        (record.messages, [text for one in record.responses for text in (one.text, one.refined) if text])
        for record in records
    ]
    for place, why in zip(places, chat.refusals(dialogues), strict=True):
        if why:
            found.setdefault(place, why)
    return sorted(found.items())


def _read_prepared(path: str | os.PathLike[str], settings: Mapping[str, Any], limit: int | None) -> ReadResult:
    prepared = PreparedRecords(path)
    prepared.check(settings)
    about = prepared.fingerprint
    if limit is not None:
        return ReadResult(prepared[:limit], min(limit, len(prepared)), [], 0, format=about.format)
    return ReadResult(prepared, about.rows, [], about.duplicates, about.skipped, about.format)


def _settings(data_format: str, template: str, tie_margin: float, on_bad_row: str, annotators: str) -> Settings:
    for key, value, options in (
        ("format", data_format, FORMATS),
        ("on_bad_row", on_bad_row, ("error", "skip")),
        ("annotators", annotators, ANNOTATORS),
    ):
        if value not in options:
            raise UserError(f"data.{key}: {value!r} is not one of {', '.join(options)}")
    if template.count("{prompt}") != 1:
        raise UserError(f"data.template: {template!r} must contain {{prompt}} once")
    return Settings(template, tie_margin, annotators)
