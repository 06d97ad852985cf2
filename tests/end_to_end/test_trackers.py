"""A run with a tracker, by the command line: what is sent is what ``metrics.jsonl`` has."""

import importlib.machinery
import pathlib
import sys

import pytest

from tests.end_to_end import tiny
from tests.trackers.test_trackers import Module, rows

pytestmark = pytest.mark.usefixtures("one_device")


def test_a_run_is_mirrored_to_its_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Module("trackio")
    module.__spec__ = importlib.machinery.ModuleSpec("trackio", None)
    monkeypatch.setitem(sys.modules, "trackio", module)
    words = (
        f"--config={tiny.ROOT / 'configs' / 'sft.py'}",
        f"--workdir={tmp_path / 'run'}",
        *tiny.SIZE,
        "--config.sft.steps=3",
        "--config.log.every=1",
        "--config.log.tensorboard=False",
        "--config.log.trackers=trackio",
    )
    tiny.launch(*words, report=False)
    kept = [(row["stage"], row["step"]) for row in tiny.rows_of(tmp_path / "run")]
    assert [row[:2] for row in rows(module)] == kept
    assert ("sft", 3) in kept
    (opened,) = module.opened
    assert (opened["project"], opened["config"]["sft.steps"]) == ("rlhf_jax", 3)
    tiny.launch(*words, report=False)  # it has ended: nothing more to say
    assert [row[:2] for row in rows(module)] == kept
    assert len(module.ends) == 2
