"""The formats by name, and the fields that tell them apart."""

from collections.abc import Callable

from rlhf_jax.data.readers.checks import BadRow, Row, has
from rlhf_jax.data.readers.formats import argilla, label_studio, lists, pairs, published, single
from rlhf_jax.data.readers.formats.common import Found, Reader, Settings

__all__ = ["FORMATS", "READERS", "Found", "Settings", "detect"]

READERS: dict[str, Reader] = {
    "lists": lists.read,
    "hh": pairs.hh,
    "preference": pairs.preference,
    "unpaired": single.unpaired,
    "demonstration": single.demonstration,
    "messages": single.conversation,
    "text": single.plain_text,
    "prompt": single.prompt_only,
    "ultrafeedback": published.ultrafeedback,
    "nectar": published.nectar,
    "helpsteer3": published.helpsteer3,
    "nemo_rl": published.nemo_rl,
    "rewardbench": pairs.rewardbench,
    "rewardbench2": pairs.rewardbench2,
    "label_studio": label_studio.read,
    "argilla": argilla.read,
}
FORMATS = ("auto", *READERS)

# The first that holds decides. The order matters only from "rewardbench2" on; above it the fields exclude each other.
_SIGNS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("label_studio", lambda row: has(row, "data", "annotations")),
    ("argilla", lambda row: has(row, "fields", "responses") or argilla.is_flat(row)),
    ("nectar", lambda row: has(row, "prompt", "answers")),
    ("ultrafeedback", lambda row: has(row, "instruction", "completions")),
    ("nemo_rl", lambda row: has(row, "context", "completions")),
    ("helpsteer3", lambda row: has(row, "context", "response1") or has(row, "context", "response2")),
    ("rewardbench2", pairs.are_lists_of_texts),
    ("rewardbench", lambda row: has(row, "subset", "chosen") and isinstance(row["chosen"], str)),
    ("hh", lambda row: not has(row, "prompt") and pairs.is_transcript(row)),
    ("preference", lambda row: has(row, "chosen") or has(row, "rejected")),
    ("lists", lambda row: has(row, "responses")),
    ("unpaired", lambda row: has(row, "completion", "label")),
    ("demonstration", lambda row: has(row, "completion")),
    ("messages", lambda row: has(row, "messages")),
    ("prompt", lambda row: has(row, "prompt")),
    ("text", lambda row: has(row, "text")),
)


def detect(row: Row) -> str:
    """The name of the format that a row is in, by its fields alone. Raises BadRow if it is in none."""
    for name, holds in _SIGNS:
        if holds(row):
            return name
    known = ", ".join(list(row)[:8]) or "none"
    raise BadRow(f"row: of no known format by its fields ({known}); data.format names one of {', '.join(READERS)}")
