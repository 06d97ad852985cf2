"""The stages dpo and online from a policy and a reward model of another run, and the same after having been killed."""

import pathlib

import pytest

from rlhf_jax.metrics import read_jsonl, read_summary
from tests.end_to_end import tiny
from tests.end_to_end.conftest import Run
from tests.end_to_end.test_resume import Killed, _die_at_row, starts  # noqa: F401

EVERY = ("reward.mean", "kl", "length", "entropy", "gold.open", "gold.closed")
STEPS = (
    *tiny.SIZE,
    "--config.dpo.steps=4",
    "--config.dpo.eval_every=3",
    "--config.online.iterations=4",
    "--config.online.eval_every=3",
    "--config.online.reference_every=3",
    "--config.log.every=1",
    "--config.checkpoint.every=2",
    "--config.checkpoint.every_iterations=2",
)


@pytest.mark.slow
def test_both_stages_killed_end_as_those_that_were_not(
    quickstart: Run,
    tmp_path: pathlib.Path,
    starts: list[tuple[str, int]],  # noqa: F811
) -> None:
    """The last online checkpoint before the death, at 2, still has the SFT policy as its reference; at 3 it changes."""
    parents = (f"--config.parents.sft={quickstart.workdir}", f"--config.parents.reward={quickstart.workdir}")
    command = (f"--config={tiny.ROOT / 'configs' / 'dpo.py'}", "--config.stages=dpo,online", *parents, *STEPS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny.launch(*command, f"--workdir={whole}", report=False)
    for stage in ("dpo", "online"):
        with pytest.MonkeyPatch.context() as monkeypatch:
            _die_at_row(stage, 3)(monkeypatch)
            with pytest.raises(Killed):
                tiny.launch(*command, f"--workdir={killed}", report=False)
    starts.clear()
    tiny.launch(*command, f"--workdir={killed}", report=False)
    assert starts == [("online", 2)]
    tiny.assert_same_state(killed, whole, ("dpo", "online"))
    assert any("reference" in name for name in tiny.state_of(whole, "online"))
    assert tiny.rows_of(killed) == tiny.rows_of(whole)

    summary = read_summary(whole)
    for stage in ("dpo", "online"):
        assert {f"{stage}.{name}" for name in EVERY} <= summary.keys()
        assert 0 < summary[f"{stage}.reward.mean"] < 1
    rows = read_jsonl(whole / "metrics.jsonl")
    # The same policy answers the same prompts before either stage: their first figures are of PPO's kind.
    assert summary["dpo.reward.mean.before"] == pytest.approx(summary["online.reward.mean.before"], abs=0.2)
    assert [row["step"] for row in rows if row["stage"] == "online" and "reward.best" in row["metrics"]] == [1, 2, 3, 4]
