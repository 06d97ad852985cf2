"""The critique stage from the command line: it ends, it goes on where it was killed, and its refusals come early."""

import pathlib
from typing import Any

import pytest

from rlhf_jax.metrics import MetricWriter, read_jsonl, read_summary
from tests.end_to_end import tiny

pytestmark = pytest.mark.usefixtures("one_device")

COMMAND = (
    f"--config={tiny.ROOT / 'configs' / 'critique.py'}",
    *tiny.PIPELINE,
    "--config.stages=critique",
    "--config.critique.init=scratch",
    "--config.critique.batch_size=8",
    "--config.critique.steps=6",
    "--config.critique.first_steps=2",
    "--config.critique.eval_every=3",
    "--config.critique.samples=2",
    "--config.data.list_size=4",
    "--config.data.refinements=both",
    "--config.log.samples=4",
)


class Killed(BaseException):
    """Not an Exception: nothing in the program may catch it."""


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed where critiques are the model's own, after step 5; the checkpoint is of step 4."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny.launch(*COMMAND, f"--workdir={whole}")
    printed = capsys.readouterr().out
    assert "256 given critiques" not in printed  # refined pairs have critiques too
    assert "refined responses added to the demonstrations" in printed

    write = MetricWriter.write
    with pytest.MonkeyPatch.context() as patch:

        def dying(self: MetricWriter, stage: str, step: int, metrics: Any) -> None:
            write(self, stage, step, metrics)
            if (stage, step) == ("critique", 5):
                raise Killed

        patch.setattr(MetricWriter, "write", dying)
        with pytest.raises(Killed):
            tiny.launch(*COMMAND, f"--workdir={killed}", report=False)
    assert tiny.last_step(killed, "critique") == 4
    tiny.launch(*COMMAND, f"--workdir={killed}", report=False)
    assert "critique: going on from step 4" in capsys.readouterr().out
    tiny.assert_same_state(whole, killed, ("critique",))
    assert tiny.rows_of(whole) == tiny.rows_of(killed)
    assert (whole / "summary.json").read_bytes() == (killed / "summary.json").read_bytes()

    summary = read_summary(whole)
    assert summary["critique.steps"] == 6
    assert 0 <= summary["critique.critique_exact"] <= summary["critique.critique_verdict"] <= 1
    assert summary["critique.critique_loss"] > 0
    assert 0 < summary["critique.pair_accuracy"] < 1
    samples = read_jsonl(whole / "samples" / "critique" / "6.jsonl")
    assert len(samples) == 4
    assert all(0 < row["proxy"] < 1 and row["gold"] is not None and isinstance(row["critique"], str) for row in samples)
    rewards = read_jsonl(whole / "rewards" / "critique.jsonl")
    assert {row["step"] for row in rewards} == {3, 6}
    assert len([row for row in rewards if row["step"] == 6]) == 32 * 4
    for row in read_jsonl(whole / "metrics.jsonl"):
        if row["stage"] == "critique" and "grad_norm" in row["metrics"]:
            assert {"ranking_loss", "critique_loss", "critique_length", "pair_accuracy"} <= set(row["metrics"])


def test_a_file_without_critiques_is_refused_before_anything_is_trained(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*COMMAND, *tiny.FILE, "--config.tokenizer.kind=byte", "--config.data.refinements=none")
    words = (*words, "--config.data.ties=broken")
    path = tiny.lists_file(tmp_path / "lists.jsonl")
    line = tiny.refused(capsys, *words, f"--config.data.path={path}", f"--workdir={tmp_path / 'run'}")
    assert "config.stages: critique, but no response" in line
    assert not (tmp_path / "run" / "checkpoints").exists()
