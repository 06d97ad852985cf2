"""The config of a large run, on a mesh, in small."""

import pathlib

import pytest

from rlhf_jax.metrics import read_summary
from tests.end_to_end import tiny


@pytest.mark.slow
def test_the_large_config_makes_its_steps_on_a_mesh(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    tiny.launch(
        f"--config={tiny.ROOT / 'configs' / 'llama_8b.py'}",
        f"--workdir={workdir}",
        *tiny.SIZE,
        *tiny.FILE,
        f"--config.data.path={tiny.lists_file(tmp_path / 'lists.jsonl')}",
        "--config.tokenizer.vocab_size=300",
        "--config.model.kv_heads=2",
        "--config.parallel.fsdp=2",
        "--config.parallel.tensor=2",
        "--config.sft.steps=2",
        "--config.reward.steps=2",
        "--config.ppo.iterations=2",
        "--config.log.every=1",
        report=False,
    )
    summary = read_summary(workdir)
    assert [summary[f"{stage}.steps"] for stage in ("sft", "reward", "ppo")] == [2, 2, 2]
