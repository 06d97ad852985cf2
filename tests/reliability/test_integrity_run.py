"""A run whose newest checkpoint is damaged goes on by the same command, to the same bits."""

import pathlib
import shutil
from collections.abc import Iterator

import jax
import pytest

from rlhf_jax.metrics import read_jsonl
from tests.end_to_end import tiny
from tests.reliability.conftest import Tally


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        yield


def damage(step: pathlib.Path) -> None:
    """A bit in the middle of the largest file of the parameters."""
    path = max((step / "params").rglob("*"), key=lambda one: one.stat().st_size if one.is_file() else 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    for copy in (step / "params").rglob(path.name):  # Orbax has it twice
        copy.write_bytes(bytes(data))


@pytest.mark.reliability("R4", tries=2)
def test_a_run_goes_on_from_the_step_before_the_damaged_one(
    tally: Tally, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so, the steps since are made again, and all that a run leaves is as if nothing had been.

    When the step before it is damaged too, and none is left, the run ends with 2 and names the folder.
    """
    words = (f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}", *tiny.PIPELINE, "--config.stages=sft")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tiny.launch(*words, f"--workdir={whole}", report=False)
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    stage = cut / "checkpoints" / "sft"
    with tally.one("the newest"):
        damage(stage / "6")
        capsys.readouterr()
        tiny.launch(*words, f"--workdir={cut}", report=False)
        said = capsys.readouterr()
        assert f"sft: {stage / '6'}: damaged: params" in said.out
        assert "; kept as 6.corrupt, going on from the step before\nsft: going on from step 4\n" in said.out
        assert "Traceback" not in said.out + said.err
        tiny.assert_same_state(cut, whole, ("sft",))
        assert tiny.rows_of(cut) == tiny.rows_of(whole)
        assert (cut / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
        assert sorted(path.name for path in stage.iterdir()) == ["4", "6", "6.corrupt"]
    with tally.one("all of them"):
        (cut / "summary.json").unlink()
        damage(stage / "4")
        damage(stage / "6")
        for _ in range(2):  # nor does it begin anew when it is started again
            rows = read_jsonl(cut / "metrics.jsonl")
            line = tiny.refused(capsys, *words, f"--workdir={cut}")
            assert f"no step before it is left: move {stage} away to begin the stage anew" in line
            assert read_jsonl(cut / "metrics.jsonl") == rows
