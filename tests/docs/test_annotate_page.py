"""The commands of docs/annotate.md, and of the trackers in docs/run_directory.md, are taken; its example is read."""

import json
import pathlib
import re
import shlex

import pytest

from rlhf_jax.commands import chat
from rlhf_jax.data.choices import ChoiceFile, choice_row
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message
from rlhf_jax.flags import parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "annotate.md").read_text()
TRACKED = (ROOT / "docs" / "run_directory.md").read_text().partition("## Trackers")[2].partition("\n## ")[0]


def commands(page: str) -> list[list[str]]:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line) for line in blocks.splitlines() if line]


def test_the_commands_are_taken(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "alex.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    extras = set(re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
    asked, trained, tracked = [], [], []
    for words in (*commands(PAGE), *commands(TRACKED)):
        if words[:2] == ["pip", "install"]:
            assert words[2].removeprefix("rlhf_jax[").removesuffix("]") in extras
        elif words[:2] == ["rlhf-jax", "chat"]:
            asked.append(chat.read_order(words[2:]))
        else:
            assert words[:3] == ["python", "-m", "rlhf_jax"]
            launch = parse(words[3:])
            (tracked if launch.config.log.trackers else trained).append(launch.config)
    assert [str(order.out) for order in asked] == [config.data.path for config in trained] == ["labels/alex.jsonl"]
    assert [config.log.trackers for config in tracked] == [("trackio",)]


def test_the_options_are_those_of_the_command() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `--")]
    told = re.findall(r"--(\w+)", " ".join(rows))
    assert sorted(told) == sorted(chat._DEFAULTS)
    assert set(re.findall(r"^  --(\w+)=", chat._HELP, re.MULTILINE)) == set(chat._DEFAULTS)


def test_the_line_shown_is_what_is_written_and_read(tmp_path: pathlib.Path) -> None:
    (line,) = re.findall(r"```jsonl\n(.*?)\n```", PAGE, re.DOTALL)
    shown = json.loads(line.replace('{"text": "…", "rank": 1', '{"text": "other", "rank": 1'))
    about = {key: value for key, value in shown.items() if key not in ("prompt", "annotator", "responses", "choice")}
    made = choice_row(
        (Message("user", "…"),),
        ("…", "other"),
        "A",
        ((0.71,), (0.64,)),
        annotator="alex",
        model="runs/quickstart:ppo",
        about=about,
    )
    assert made == shown
    assert list(made) == list(shown)
    with ChoiceFile(tmp_path / "labels.jsonl") as file:
        file.add(shown)
    assert len(read_file(file.path).records) == 1
