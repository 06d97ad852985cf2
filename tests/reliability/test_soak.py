"""A run that goes on and on keeps what it holds."""

import pathlib

import pytest

from tests.reliability.conftest import Tally
from tests.reliability.soak import soak


@pytest.mark.reliability("R28", tries=1, torture=1)
def test_a_long_run_grows_in_nothing(request: pytest.FixtureRequest, tally: Tally, tmp_path: pathlib.Path) -> None:
    """Twenty seconds (at full size five minutes; ``python -m tests.reliability.soak`` takes longer ones) after the
    warm-up. Held to the kernel's count of what the process has, and to the compiler's own log.
    """
    seconds = 300 if request.config.getoption("--torture") else 20
    for number in tally.tries:
        with tally.one(f"soak {number}"):
            found = soak(tmp_path, seconds)
            assert found["exit_code"] == 75, found
            assert found["compiled"][0] > 10, "the log is read"
            assert found["compiled"][1] == 0, found
            assert found["iterations"] > 10, found
            assert found["memory_MiB"][1] < 1.03 * found["memory_MiB"][0], found
            for what in ("open_files", "threads"):
                assert found[what][1] <= found[what][0], (what, found)
