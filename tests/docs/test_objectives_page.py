"""The table of all objectives is that of its experiment, row by row."""

import pathlib
import re

import jax.numpy as jnp
import pytest

from experiments.objectives.experiment import CONFIGS, words_of
from experiments.objectives.sweep import CURVATURE, OBJECTIVES, SETTINGS, STRENGTHS
from rlhf_jax.config import DIVERGENCES
from rlhf_jax.flags import parse
from rlhf_jax.objectives.divergences import make_divergence

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "objectives.md"


def test_every_objective_and_every_point_has_its_row() -> None:
    rows = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.MULTILINE)]
    configs = {row[0]: row[1].strip("`") for row in rows if row[1].startswith("`")}
    assert configs == OBJECTIVES
    points = [(row[0], float(row[1])) for row in rows if row[0] in CURVATURE and not row[1].startswith("`")]
    assert points == [(name, strength) for name in CURVATURE for strength in STRENGTHS]


def test_the_curvatures_are_second_derivatives_at_one() -> None:
    assert set(CURVATURE) == set(DIVERGENCES)
    step = 1e-2
    for name, curvature in CURVATURE.items():
        if name == "total_variation":  # a kink
            continue
        low, high = (float(make_divergence(name).slope(jnp.asarray(1.0 + way * step))) for way in (-1, 1))
        assert (high - low) / (2 * step) == pytest.approx(curvature, rel=1e-3), name


def test_every_setting_is_a_command_that_parses(tmp_path: pathlib.Path) -> None:
    for setting in SETTINGS:
        if not setting.endswith(".0"):
            continue
        (tmp_path / "parents.0").mkdir(exist_ok=True)
        words = words_of(setting, tmp_path / "x")
        assert words[0].startswith(f"--config={CONFIGS}")
        assert parse([*words, "--workdir=runs/x"]).config.seed == 0
