"""The table of estimators and placements says what the code says of itself."""

import pathlib
import re

from rlhf_jax.objectives.divergences import DIVERGENCES, ChiPO, ForwardKL, ReverseKL
from rlhf_jax.objectives.regularisers import Regulariser, contradiction

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "regularisers.md").read_text()


def said(estimator: str, placement: str, level: str, importance: bool) -> str:
    if contradiction(estimator, placement, level, importance):  # type: ignore[arg-type]
        return "refused"
    return Regulariser(ReverseKL(), estimator, placement, level, importance).bias() or "right"  # type: ignore[arg-type]


def test_the_table_is_what_bias_says() -> None:
    rows = re.findall(r"^\| `(k\d|exact)`( × ρ)? \| `(\w+)` \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    for estimator, ratio, placement, token, sequence in rows:
        choice = estimator, placement
        assert token == said(*choice, "token", bool(ratio)), choice
        assert sequence == said(*choice, "sequence", bool(ratio)), choice
    found = {(estimator, placement, bool(ratio)) for estimator, ratio, placement, *_ in rows}
    all_placements = ("reward", "loss", "both")
    everything = {(e, p, False) for e in ("k1", "k2", "k3", "exact") for p in all_placements}
    assert found == everything | {(e, "loss", True) for e in ("k1", "k2", "k3")}


def test_the_sentences_on_other_divergences() -> None:
    for spec in (
        Regulariser(ChiPO(), "k3", "reward"),
        Regulariser(ChiPO(), "k1", "loss", "sequence"),
        Regulariser(ForwardKL(), "k3", "loss", "sequence"),
    ):
        assert f'"{spec.bias()}"' in PAGE.replace("\n  ", " ")


def test_every_divergence_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)`(?:, [^|]*)? \|.*\| (no|yes) \|$", PAGE, re.MULTILINE)
    assert dict(rows) == {name: "yes" if member().sparse else "no" for name, member in DIVERGENCES.items()}
