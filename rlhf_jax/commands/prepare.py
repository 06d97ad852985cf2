"""``rlhf-jax prepare``: a file of feedback, read and checked once, to a folder that runs read by random access."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.commands.options import read_options
from rlhf_jax.config import DATA_FORMATS
from rlhf_jax.console import say
from rlhf_jax.errors import UserError

_HELP = """Read and check a file of feedback once; runs then take the folder as --config.data.path.

usage: rlhf-jax prepare FILE --out=DIR [--format=FORMAT] [--template=TEXT] [--tie_margin=X] [--annotators=apart]
                        [--on_bad_row=skip] [--tokenizer=PATH [--chat]]

  FILE              JSON lines, a JSON array, either of them gzipped, Parquet; tfds:NAME[/CONFIG]:SPLIT, hub:OWNER/NAME
  --out=DIR         the folder to write: records.array_record, fingerprint.json, and rejects.jsonl if rows were left out
  --format=FORMAT   {formats}
  --template=TEXT   around bare prompts, with {{prompt}} in it once ("{{prompt}}")
  --tie_margin=X    scores closer than this are tied (0)
  --annotators=A    rows with an overall preference and those it was made of: overall (default), or apart
  --on_bad_row=B    error: stop at the first bad row (default); skip: leave it out, but stop if more than 1 % are bad
  --tokenizer=PATH  a folder or hub name; runs with another tokenizer then refuse the folder
  --chat            for runs with config.data.chat: what the tokenizer's chat template cannot render is a bad row

The template, the margin and the annotators' rule are kept with the records; a run that asks for others refuses them,
as does one with another chat template, or with one where there was none.

examples:
  rlhf-jax prepare hh.jsonl.gz --out=data/hh --on_bad_row=skip
  rlhf-jax prepare export.json --out=data/ours --format=label_studio
  rlhf-jax prepare dialogues.jsonl --out=data/chat --tokenizer=Qwen/Qwen2.5-0.5B-Instruct --chat"""


@dataclasses.dataclass(frozen=True)
class _Options:
    """What the command line asked for."""

    file: str
    out: str
    format: str = "auto"
    template: str = "{prompt}"
    tie_margin: float = 0.0
    annotators: str = "overall"
    on_bad_row: str = "error"
    tokenizer: str = ""
    chat: bool = False


def main(words: Sequence[str]) -> None:
    """Do what the words after ``prepare`` ask for. A folder that holds the same already is left as it is.

    Raises:
      UserError: one line, for a bad row, a file that cannot be read, or a folder that cannot be written.
    """
    if "--help" in words or not words:
        print(_HELP.format(formats=", ".join(DATA_FORMATS)))
        return
    options = _options(words)
    # Imported here: a mistake on the command line is told at once.
    from rlhf_jax.data import prepared
    from rlhf_jax.data.readers import read_file
    from rlhf_jax.data.tokenizers import build_tokenizer, with_chat

    out = Path(options.out)
    digest = prepared.sha256_of(options.file) if os.path.isfile(options.file) else ""
    tokenizer = build_tokenizer("pretrained", path=options.tokenizer) if options.tokenizer else None
    if tokenizer is not None and options.chat:
        tokenizer = with_chat(tokenizer, options.tokenizer)
    chat = None if tokenizer is None else tokenizer.chat
    known: dict[str, Any] = {
        "source_sha256": digest,
        "template": options.template,
        "tie_margin": options.tie_margin,
        "annotators": options.annotators,
        "tokenizer_sha256": prepared.tokenizer_sha256(tokenizer) if tokenizer is not None else "",
        "chat": chat.sha256 if chat is not None else "",
    }
    if prepared.is_prepared(out):
        before = prepared.PreparedRecords(out).fingerprint  # a damaged folder is no reason to leave it as it is
        same = digest and all(getattr(before, key) == value for key, value in known.items())
        if same and options.format in ("auto", before.format):
            say(f"{out}: holds {before.records} records of {before.source} already")
            return
    if out.exists():
        raise UserError(f"prepare: --out: {out} exists and holds something else")
    found = read_file(
        options.file,
        options.format,
        options.template,
        options.tie_margin,
        options.on_bad_row,
        annotators=options.annotators,
        chat=chat,
        setting="--format",
    )
    fingerprint = prepared.Fingerprint(
        source=Path(options.file).name if digest else options.file,
        format=found.format,
        rows=found.rows,
        rejected=len(found.rejected),
        duplicates=found.duplicates,
        skipped=found.skipped,
        records=len(found.records),
        **known,
    )
    prepared.write_prepared(out, found.records, fingerprint, found.rejected, found.unit)
    counts = [f"{found.rows} rows of format {found.format}", f"{len(found.records)} records"]
    counts += [f"{len(found.rejected)} bad rows left out"] * bool(found.rejected)
    counts += [f"{found.duplicates} repeated responses left out"] * bool(found.duplicates)
    counts += [f"{found.skipped} judgements left out that their annotators skipped"] * bool(found.skipped)
    say(f"{out}: {', '.join(counts)}")


def _options(words: Sequence[str]) -> _Options:
    names = [field.name for field in dataclasses.fields(_Options) if field.type is not bool][1:]
    values: dict[str, Any] = read_options("prepare", words, names, place=("file", "file"), switches=("chat",))
    for name, wanted in (("file", "FILE"), ("out", "--out=DIR")):
        if name not in values:
            raise UserError(f"prepare: {wanted} is missing")
    if "chat" in values and "tokenizer" not in values:
        raise UserError("prepare: --chat: needs --tokenizer=PATH, whose chat template it is")
    if "chat" in values and "template" in values:
        raise UserError("prepare: --template: would go unused beside --chat")
    margin = values.pop("tie_margin", "0")
    try:
        tie_margin = float(margin)
    except ValueError:
        tie_margin = -1.0
    if not 0 <= tie_margin < float("inf"):
        raise UserError(f"prepare: --tie_margin: {margin!r} is not a number from 0")
    return _Options(**values, tie_margin=tie_margin)
