"""How the scores of one list are spread, and types of prompt made from it."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

LISTS = "alpaca_eval_lists.jsonl.gz"
FLOOR = 1e-6  # the file rounds probabilities to so many


def find_lists() -> Path | None:
    """The file of real lists, in the folder RLHF_JAX_DATA or in ../shared/data; None if neither has it."""
    here = Path(__file__).resolve().parents[2]
    for folder in (os.environ.get("RLHF_JAX_DATA"), here.parent / "shared" / "data"):
        if folder and (Path(folder) / LISTS).is_file():
            return Path(folder) / LISTS
    return None


def read_lists(path: Path) -> list[dict[str, Any]]:
    """Its rows."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def normalised_logits(scores: Float[np.ndarray, "*L K"]) -> Float[np.ndarray, "*L K"]:
    """Log-odds of the judge's probabilities, moved and scaled so that each list runs from 0 to 1 (all 1/2 if equal).

    On the scale of probabilities nine scores in ten of such a judge lie within 0.1 of 0 or 1, whatever the prompt.
    """
    odds = np.log(scores + FLOOR) - np.log1p(FLOOR - scores)
    low, high = odds.min(-1, keepdims=True), odds.max(-1, keepdims=True)
    return np.where(high > low, (odds - low) / np.where(high > low, high - low, 1.0), 0.5)


def second_moment(normalised: Float[np.ndarray, "*L K"]) -> Float[np.ndarray, "*L"]:
    """E (Y - 1/2)^2 of each list: 1/4 for two points, 1/12 for an even spread."""
    return ((normalised - 0.5) ** 2).mean(-1)


def types_of(moment: Float[np.ndarray, "L"], count: int) -> Int[np.ndarray, "L"]:
    """``count`` equally frequent types, from the most even lists to those nearest to two points."""
    return np.searchsorted(np.quantile(moment, np.arange(1, count) / count), moment, side="right")


def reliability(scores: Float[np.ndarray, "L K"], draws: int = 100, seed: int = 0) -> float:
    """Correlation over lists of the moments of two random halves of the list: 0 if dispersion is only chance."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        order = rng.permutation(scores.shape[1])
        halves = (order[: len(order) // 2], order[len(order) // 2 :])
        found.append(np.corrcoef(*(second_moment(normalised_logits(scores[:, half])) for half in halves))[0, 1])
    return float(np.mean(found))


def share_explained(moment: Float[np.ndarray, "L"], groups: list[str]) -> float:
    """Adjusted R^2 of the moments on the group of their prompt."""
    names = sorted(set(groups))
    member = np.array([names.index(group) for group in groups])
    means = np.array([moment[member == place].mean() for place in range(len(names))])
    left = ((moment - means[member]) ** 2).sum() / (len(moment) - len(names))
    return float(1.0 - left / moment.var(ddof=1))
