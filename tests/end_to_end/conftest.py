"""One tiny run of the whole story, made once and read by many tests."""

import contextlib
import io
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import pytest

from tests.end_to_end import tiny


class Run(NamedTuple):
    """A finished run: its directory, the command without it, and what it printed."""

    workdir: pathlib.Path
    command: tuple[str, ...]
    printed: str


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Runs of a module that is not about devices have one: programs for eight take longer to compile and to run."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        yield


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``configs/quickstart.py`` in a few steps; tests must not write into its directory."""
    workdir = tmp_path_factory.mktemp("quickstart") / "run"
    command = (f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}", *tiny.PIPELINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tiny.launch(*command, f"--workdir={workdir}")
    return Run(workdir, command, printed.getvalue())
