"""The tutorial is followed from its first command to its last, with a few steps where it has many."""

import os
import pathlib
import subprocess
import sys

import pytest

from rlhf_jax.metrics import read_status, read_summary
from tests.docs.pages import ROOT, blocks
from tests.end_to_end.tiny import MODEL

FEW = (
    *MODEL,
    *("--config.sft.steps=4", "--config.sft.batch_size=8", "--config.sft.eval_every=4"),
    *("--config.reward.steps=4", "--config.reward.batch_size=8", "--config.reward.eval_every=4"),
    *("--config.ppo.iterations=1", "--config.ppo.prompts_per_iteration=16", "--config.ppo.samples_per_prompt=1"),
    *("--config.ppo.epochs=1", "--config.ppo.minibatches=2", "--config.log.samples=2"),
)


def clone(folder: pathlib.Path) -> pathlib.Path:
    """A clone whose environment is made already; its Python puts ``FEW`` behind the words of a run."""
    for name in ("configs", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    programs = {
        "python": f'case "$*" in *--workdir=*) set -- "$@" {" ".join(FEW)};; esac\nexec {sys.executable} "$@"',
        "rlhf-jax": 'exec "$(dirname "$0")/python" -m rlhf_jax "$@"',
    }
    for name, script in programs.items():
        program = folder / ".venv" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    for made in ("requirements/base.txt", "setup.py", "pyproject.toml", ".venv/.created", ".venv/.base"):
        (folder / made).parent.mkdir(exist_ok=True)
        (folder / made).touch()
    return folder


@pytest.mark.slow
def test_the_tutorial_leads_to_two_runs_that_are_compared(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)  # one device, as on the reader's machine
    script = "\n".join(blocks(ROOT / "docs" / "tutorial.md", "bash"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone(tmp_path), env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = {name: read_summary(tmp_path / "runs" / name) for name in ("quickstart", "softer")}
    for name, summary in found.items():
        assert read_status(tmp_path / "runs" / name) == "done"
        assert f"runs/{name}/summary.json" in done.stdout
        assert "reward.w1_open_closed" in summary
    assert "ppo.gold.open" in found["quickstart"]
    assert (tmp_path / "runs" / "quickstart" / "report" / "index.html").is_file()
    assert "--config.reward.utility.gamma=0.5" in done.stdout
