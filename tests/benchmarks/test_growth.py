"""Of growth: exponents of laws that are known, and a figure of them."""

from pathlib import Path

import pytest

from benchmarks.growth import AXES, draw, exponent, table


def points(power: float) -> list[dict[str, float]]:
    values = (2.0, 4.0, 8.0, 16.0)
    return [{"value": x, "seconds": 3 * x**power, "temporaries": 5e6, "resident": 7e6 * x} for x in values]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_the_power(power: float) -> None:
    found = points(power)
    assert exponent(found, "seconds") == pytest.approx(power)
    assert exponent(found, "temporaries") == pytest.approx(0, abs=1e-9)


def test_table_and_figure(tmp_path: Path) -> None:
    found = {name: points(1.0) for name in AXES}
    lines = table(found).splitlines()
    assert len(lines) == 2 + len(AXES)
    assert lines[2].startswith("| tokens of a row | 2, 16 | 1.00 (1.00) |")
    draw(found, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
