"""Every command of docs/reports.md is run, on runs made up for it."""

import pathlib
import re
import shlex

import pytest

from rlhf_jax.main import main
from tests.reports.sweeps import gold_and_kl, random_points, write_sweep, write_trial

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "reports.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[2:]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(".venv/bin/rlhf-jax report ")
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for name in ("quickstart", "a", "b", "reproduce/objectives/ppo.0", "reproduce/objectives/dpo.0"):
        write_trial(folder / "runs" / name, {"seed": 0}, {"ppo.gold.open": 0.5, "ppo.kl": 1.0})
    write_sweep(folder / "runs" / "sweep", random_points(3), (0, 1), gold_and_kl)
    return folder


def test_there_are_commands():
    assert len(COMMANDS) == 4


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_writes_a_page(words, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.setattr("rlhf_jax.reports.page.paper", lambda plot, *forms: [b""] * len(forms))
    main(["report", *words])
    page = pathlib.Path(capsys.readouterr().out.removeprefix("report: ").strip())
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_sections_are_those_of_the_pages():
    """Each heading of a page stands in its table."""
    from rlhf_jax.reports import run_page, sweep_page

    told = ", ".join(re.findall(r"^\| ([^|`]+) \|", PAGE, re.MULTILINE))
    for module, left_out in ((run_page, {"Reward model: evaluations"}), (sweep_page, {"This folder", "This sweep"})):
        source = pathlib.Path(module.__file__).read_text()
        headings = set(re.findall(r'Section\(\s*"([^"]+)"', source)) - left_out
        assert headings
        for heading in headings:
            words = heading.removeprefix("Reward model: ") if heading == "Reward model: accuracy" else heading
            assert words.lower() in told.lower(), heading
