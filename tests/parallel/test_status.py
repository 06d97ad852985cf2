"""What is left to read in STATUS.json when the process that writes it is lost."""

import pathlib

import pytest

from rlhf_jax import run
from rlhf_jax.metrics import read_status, write_status


@pytest.mark.parametrize(
    ("before", "first", "code", "after"),
    [
        ("running", True, 75, "interrupted"),
        ("running", True, 1, "failed"),
        ("running", False, 75, "interrupted"),  # the first may be the one that was lost
        ("running", False, 1, "running"),  # it is there, and says so itself
        ("failed", False, 75, "failed"),  # it failed, said so and went; that is no loss
        ("", False, 75, ""),  # the run had not begun
    ],
)
def test_a_run_that_has_ended_does_not_say_that_it_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, before: str, first: bool, code: int, after: str
) -> None:
    if before:
        write_status(tmp_path, before)
    monkeypatch.setattr(run, "is_first", lambda: first)
    run._last_words(tmp_path, code, "another process was lost")
    assert read_status(tmp_path) == after
