"""Critiques that a model wrote of held-out responses, beside those that people gave."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rlhf_jax.console import clean_text
from rlhf_jax.data.records import Record


def critique_metrics(
    written: Sequence[Sequence[str]], given: Sequence[Sequence[str]], lengths: np.ndarray, ended: np.ndarray
) -> dict[str, float]:
    """How critiques came out; ``written[i][j]`` is of response j of list i, ``given`` empty where nothing was said.

    ``critique_exact``: share of the responses with a given critique whose written one has the same words in the same
    order. ``critique_verdict``: the same of the last word that is more than a sign, where a judgement usually stands.
    ``critique_length``: ``lengths``, tokens with the end of sequence, mean; ``critique_ended``: share that ``ended`` by
    itself; ``critique_unique``: share of distinct texts. The first two are left out where nothing was given.
    """
    texts = [text for row in written for text in row]
    found = {
        "critique_length": float(np.mean(lengths)),
        "critique_ended": float(np.mean(ended)),
        "critique_unique": len(set(texts)) / max(len(texts), 1),
    }
    pairs = [
        (mine.split(), theirs.split())
        for own, others in zip(written, given, strict=True)
        for mine, theirs in zip(own, others, strict=True)
        if theirs.strip()
    ]
    if pairs:
        found["critique_exact"] = float(np.mean([mine == theirs for mine, theirs in pairs]))
        found["critique_verdict"] = float(np.mean([_last_word(mine) == _last_word(theirs) for mine, theirs in pairs]))
    return found


def critique_rows(
    records: Sequence[Record], written: Sequence[Sequence[str]], rewards: Float[np.ndarray, "N K"], count: int
) -> list[dict[str, Any]]:
    """Rows for the table of samples: of ``count`` lists evenly spaced over all, best and worst response in turn.

    ``written[i][j]`` and ``rewards[i, j]`` are of response j of record i. Critiques are shown without terminal
    escapes, controls and marks that reorder text.
    """
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).astype(int))
    rows = []
    for turn, place in enumerate(places.tolist()):
        record, column = records[place], 0 if turn % 2 == 0 else len(written[place]) - 1
        response = record.responses[column]
        rows.append(
            {
                "prompt": record.prompt,
                "prompt_type": record.prompt_type,
                "response": response.text,
                "critique": clean_text(written[place][column]),
                "proxy": float(rewards[place, column]),
                "gold": response.score,
                "before": None,
            }
        )
    return rows


def _last_word(words: Sequence[str]) -> str:
    return next((word for word in reversed(words) if any(letter.isalnum() for letter in word)), "")
