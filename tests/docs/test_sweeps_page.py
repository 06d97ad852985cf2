"""The commands of docs/sweeps.md run, by stand-ins that take no time, and its example of a space is one."""

import pathlib
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from rlhf_jax.flags import Launch
from rlhf_jax.main import main
from rlhf_jax.metrics import update_summary, write_status
from rlhf_jax.sweeps import pool, worker
from rlhf_jax.sweeps.folder import read_sweep, read_trials
from rlhf_jax.sweeps.space import grid, make_space

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [(ROOT / name).read_text() for name in ("docs/sweeps.md", "README.md")]
FIGURES = ("reward.pair_accuracy", "reward.loss", "ppo.gold.open", "ppo.gold.closed", "ppo.kl")


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)]


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("rlhf-jax sweep")]


def test_the_commands_of_the_page_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def go_on(launch: Launch, judge: Callable[..., bool], shared: Any) -> bool:
        workdir = pathlib.Path(launch.workdir)
        update_summary(
            workdir, {name: launch.config.reward.utility.gamma + place for place, name in enumerate(FIGURES)}
        )
        write_status(workdir, "done")
        return False

    def in_this_process(folder: pathlib.Path, workers: int, lease: float) -> int:
        worker.Worker(folder, lease).work()
        return 0

    monkeypatch.setattr(worker, "go_on", go_on)
    monkeypatch.setattr(pool, "run_pool", in_this_process)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert len(commands()) >= 7
    for words in commands():
        main(words)
    found = {path.name: path for path in (tmp_path / "runs").iterdir()}
    assert set(found) == {"gamma", "utilities", "rates", "tradeoff", "pruned"}
    for path in found.values():
        assert len(read_trials(path)) == read_sweep(path).trials
    assert {name: read_sweep(path).trials for name, path in found.items()} == {
        "gamma": 9,
        "utilities": 24,
        "rates": 20,
        "tradeoff": 20,
        "pruned": 5,
    }


def test_the_space_of_the_page_is_one(tmp_path: pathlib.Path) -> None:
    (block,) = blocks("python")
    (tmp_path / "space.py").write_text(block)
    found = grid(make_space(tmp_path / "space.py", ()))
    assert [tuple(point.values()) for point in found] == [("power", 0.2), ("power", 0.5), ("power", 0.8), ("log",)]


def test_the_page_has_the_layout_that_the_program_writes(tmp_path: pathlib.Path) -> None:
    """Every field of results.json, sweep.json and trial.json stands in its table."""
    import json

    from rlhf_jax.sweeps.results import as_json
    from tests.sweeps.standin import begin, made

    spec = begin(tmp_path)
    made(tmp_path, spec, 0, pair_accuracy=0.5)
    page = PAGES[0]
    results = as_json(spec, read_trials(tmp_path))
    named = set(re.findall(r"`\.?(\w+)`", page[page.index("### trial.json") :]))
    fields = {*results, *results["points"][0], *json.loads((tmp_path / "sweep.json").read_text())}
    assert fields | {*json.loads((tmp_path / "trials" / "0000" / "trial.json").read_text())} <= named
