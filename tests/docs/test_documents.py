"""What the documents point to exists, and the commands they show parse."""

import pathlib
import re
import shlex

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_is_dead_and_no_gap_is_left(document: pathlib.Path) -> None:
    text = document.read_text()
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def commands() -> list[str]:
    """Every command line of the program in the README, continued lines joined."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    return [line for line in blocks.splitlines() if "--config=" in line]


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_readme_parse(
    command: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = [word for word in shlex.split(command) if word.startswith("--")]
    for place, word in enumerate(words):
        if word.startswith("--config.data.path="):
            (tmp_path / "file.jsonl").touch()
            words[place] = f"--config.data.path={tmp_path / 'file.jsonl'}"
    launch = parse(words)
    assert launch.workdir.startswith("runs/")
    with pytest.raises(UserError):
        parse([*words, "--config.no_such_key=1"])


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 5
    assert {"make quickstart", "make test"} <= set(re.findall(r"make \w+", (ROOT / "README.md").read_text()))


def test_every_file_stands_in_its_room() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert len(rows) >= 12
    for room, files in rows:
        there = {path.stem for path in (ROOT / "rlhf_jax" / room).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert set(re.findall(r"`(\w+)/?`", files)) == there - {"__init__", "__pycache__"}, room
