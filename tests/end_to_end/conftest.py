"""One tiny run of the whole story, made once and read by many tests."""

import contextlib
import io
import pathlib
from typing import NamedTuple

import pytest

from tests.end_to_end import tiny


class Run(NamedTuple):
    """A finished run: its directory, the command without it, and what it printed."""

    workdir: pathlib.Path
    command: tuple[str, ...]
    printed: str


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``configs/quickstart.py`` in a few steps; tests must not write into its directory."""
    workdir = tmp_path_factory.mktemp("quickstart") / "run"
    command = (f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}", *tiny.PIPELINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tiny.launch(*command, f"--workdir={workdir}")
    return Run(workdir, command, printed.getvalue())
