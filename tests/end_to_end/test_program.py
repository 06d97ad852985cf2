"""The program as a process: its help, its console script, and one line on stderr when it says no."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys

import pytest

from rlhf_jax.main import main
from tests.end_to_end import tiny


def _run(*words: str, path: tuple[pathlib.Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The words as a process in the repository; modules in ``path`` come before all others."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, tiny.ROOT)))}
    return subprocess.run(
        words, cwd=tiny.ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def no_jax(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a jax that cannot be imported."""
    (tmp_path / "jax.py").write_text("raise ImportError('jax was imported')\n")
    return tmp_path


def test_help_needs_no_jax_and_lists_the_configs(no_jax: pathlib.Path) -> None:
    found = _run(sys.executable, "-m", "rlhf_jax", "--help", path=(no_jax,))
    assert (found.returncode, found.stderr) == (0, "")
    assert "usage: python -m rlhf_jax" in found.stdout
    for path in (tiny.ROOT / "configs").glob("*.py"):
        assert f"configs/{path.name}" in found.stdout


def test_a_mistake_is_told_in_one_line_without_jax(no_jax: pathlib.Path) -> None:
    command = ("--config=configs/sft.py", f"--workdir={no_jax / 'run'}", "--config.sft.stepz=3")
    found = _run(sys.executable, "-m", "rlhf_jax", *command, path=(no_jax,))
    line = "rlhf-jax: error: config.sft.stepz: no such key; did you mean config.sft.steps?\n"
    assert (found.returncode, found.stdout, found.stderr) == (2, "", line)
    assert not (no_jax / "run").exists()


def test_a_mistake_that_only_the_devices_show_is_one_line_too(tmp_path: pathlib.Path) -> None:
    command = ("--config=configs/sft.py", f"--workdir={tmp_path / 'run'}", "--config.sft.batch_size=12")
    found = _run(sys.executable, "-m", "rlhf_jax", *command)
    line = "rlhf-jax: error: config.sft.batch_size: 12 rows cannot be shared evenly by 8 devices; 8 or 16 would\n"
    assert (found.returncode, found.stdout, found.stderr) == (2, "", line)


def test_the_console_script_is_the_same_program() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="rlhf-jax")
    if not scripts:
        pytest.skip("the package is not installed: no console script to look at")
    (script,) = scripts
    assert script.load() is main
    program = pathlib.Path(sys.executable).with_name("rlhf-jax")
    found = _run(str(program), "--help")
    assert found.returncode == 0
    assert "usage: " in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code", "state"), [((), 1, "failed"), (("--dry_run",), 0, None)])
def test_a_run_whose_output_nobody_reads_has_failed(
    tmp_path: pathlib.Path, words: tuple[str, ...], code: int, state: str | None
) -> None:
    """What only prints has done its work."""
    command = (*tiny.PIPELINE, f"--config={tiny.ROOT / 'configs' / 'sft.py'}", f"--workdir={tmp_path}", *words)
    read, write = os.pipe()
    os.close(read)
    started = [sys.executable, "-m", "tests.multiprocess.child", "", *command]
    found = subprocess.run(started, cwd=tiny.ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert found.returncode == code, found.stderr
    assert found.stderr.startswith("rlhf-jax: error: nobody reads" if code else "")
    if state:
        status = tiny.status_of(tmp_path)
        assert (status["state"], status["exit_code"]) == (state, 1)
        assert status["reason"].startswith("BrokenPipeError")
