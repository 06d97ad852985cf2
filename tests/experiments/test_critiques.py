"""The verdict of the experiment on critiques, from summaries made by hand."""

import json
import pathlib

import numpy as np
import pytest

from experiments.critiques import analysis
from experiments.critiques.sweep import LISTS, SEEDS, SETTINGS
from rlhf_jax.metrics import write_text_atomically

LEVEL = {"plain": 0.7, "plain_long": 0.9, "critique": 0.8, "mixed": 0.8}
READ = {"own": 0.0, "sampled": 0.01, "true": 0.15, "shuffled": -0.4}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """``critique`` gains 0.1 whatever the seed, ``mixed`` 0.1 give or take more than that."""
    for setting, (arm, _) in SETTINGS.items():
        found = {}
        for place, seed in enumerate(SEEDS):
            level = LEVEL[arm] + (0.1 * (place - 1) if arm == "mixed" else 0.02 * place)
            for reading, more in READ.items():
                found |= {f"{seed}.{reading}{kind}": level + more for kind in analysis.KINDS}
            found |= {f"{seed}.critique_exact{kind}": 0.5 for kind in analysis.KINDS} | {f"{seed}.cpu_seconds": 2.0}
        write_text_atomically(tmp_path / setting.rpartition("/")[2] / "summary.json", json.dumps(found))
    return tmp_path


def test_the_verdict_is_computed_from_paired_differences(root: pathlib.Path) -> None:
    analysis.main(root)
    found = json.loads((root / "verdict.json").read_text())
    sizes = [str(n) for n in LISTS]
    assert found["critique against plain"] == dict.fromkeys(sizes, "better")
    assert found["critique against plain_long"] == dict.fromkeys(sizes, "worse")
    assert set(found["mixed against plain"].values()) == {"no difference clear of the seeds"}
    assert found["gains"]["critique - plain"][sizes[0]] == [pytest.approx(0.1), pytest.approx(0.0)]
    assert found["gain of the true critique"]["critique"][sizes[0]][0] == pytest.approx(0.25)
    assert found["own against shuffled"]["critique"] == dict.fromkeys(sizes, "better")
    every = ", ".join(sizes)
    assert found["verdict"][0] == f"at equal labels and steps, critique is better with {every} lists"
    assert "mixed is nowhere clearly better or worse" in found["verdict"][1]
    assert found["verdict"][-1] == "critiques are read (own against shuffled)"
    assert (root / "figures" / "critiques.png").stat().st_size > 10_000
    table = (root / "table.md").read_text()
    assert "| plain | 0.720 ± " in table
    assert "| critique - plain | +0.100 ± 0.000 |" in table


def test_an_outcome_is_clear_of_zero_or_not() -> None:
    assert [analysis.outcome(found) for found in ((0.2, 0.1), (-0.2, 0.1), (0.1, 0.2), (0.1, np.nan))] == [
        "better",
        "worse",
        "no difference clear of the seeds",
        "no difference clear of the seeds",
    ]
