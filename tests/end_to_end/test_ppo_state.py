"""PPO with all that it may remember goes on to the same bits; its policies leave a run whatever stands beside them."""

import pathlib
from typing import Any

import pytest

from rlhf_jax.build import best_of_n
from rlhf_jax.commands import export
from rlhf_jax.metrics import MetricWriter, read_jsonl
from tests.end_to_end import tiny
from tests.end_to_end.conftest import Run

REMEMBERS = (
    "--config.ppo.value.network=shared",
    "--config.ppo.value.init=zero",
    "--config.ppo.value.normalize=True",
    "--config.ppo.rewards.scale=running_std",
    "--config.ppo.pretraining.coefficient=0.5",
    "--config.ppo.kl.controller=adaptive",
    "--config.ppo.missing_eos.rule=subtract",
    "--config.ppo.unpad=yes",  # programs of as many sizes as a run meets, the same ones in one that goes on
)
WITHOUT = ("--config.ppo.advantage=rloo", "--config.ppo.samples_per_prompt=2", "--config.ppo.prompts_per_iteration=8")


class Killed(BaseException):
    """Not an Exception: nothing in the program may catch it."""


def command(quickstart: Run) -> list[str]:
    parents = [f"--config.parents.{name}={quickstart.workdir}" for name in ("sft", "reward")]
    return [f"--config={tiny.ROOT / 'configs' / 'ppo.py'}", *tiny.PIPELINE, *parents, "--config.log.tensorboard=False"]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_killed_run_ends_as_one_that_was_not(
    quickstart: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*command(quickstart), *REMEMBERS, f"--config.ppo.rewards.models={quickstart.workdir}:0.5"]
    tiny.launch(*words, f"--workdir={tmp_path / 'whole'}", report=False)
    write = MetricWriter.write

    def dying(self: MetricWriter, stage: str, step: int, metrics: Any) -> None:
        write(self, stage, step, metrics)
        if step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MetricWriter, "write", dying)
        with pytest.raises(Killed):
            tiny.launch(*words, f"--workdir={tmp_path / 'killed'}", report=False)
    tiny.launch(*words, f"--workdir={tmp_path / 'killed'}", report=False)
    tiny.assert_same_state(tmp_path / "killed", tmp_path / "whole", ("ppo",))
    assert tiny.rows_of(tmp_path / "killed") == tiny.rows_of(tmp_path / "whole")

    state = tiny.state_of(tmp_path / "whole", "ppo")
    assert {name for name in state if name.startswith("['params']['value']")} == {
        f"['params']['value']['head']['{leaf}']" for leaf in ("kernel", "bias")
    }
    assert any("return_moments" in name for name in state)
    row = next(row["metrics"] for row in read_jsonl(tmp_path / "whole" / "metrics.jsonl") if row["step"] == 1)
    parts = [value for name, value in row.items() if name.startswith("reward.part.")]
    assert sum(parts) == pytest.approx(row["reward.mean"], rel=1e-5)
    assert len(parts) == 2
    leave(tmp_path / "whole", tmp_path / "shared")


def test_a_policy_without_a_value_model_leaves_its_run(quickstart: Run, tmp_path: pathlib.Path) -> None:
    tiny.launch(
        *command(quickstart), *WITHOUT, "--config.ppo.iterations=2", f"--workdir={tmp_path / 'run'}", report=False
    )
    assert all("value" not in name for name in tiny.state_of(tmp_path / "run", "ppo"))
    leave(tmp_path / "run", tmp_path / "folder")


def leave(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    """By export and by best-of-n."""
    export.main([str(workdir), "--stage=ppo", f"--out={folder}"])
    assert (folder / "model.safetensors").is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_of_n, "load_data", tiny.load)
        patch.setattr(best_of_n, "ROWS", 8)
        found = best_of_n.answer_prompts(workdir, policy="ppo", prompts="2", n=3, seed=0)
    assert found.candidates.members.shape == (2, 3, 1)
