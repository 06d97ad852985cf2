"""The options of docs/annotate.md are those that there are, and the line it shows is written and read."""

import json
import pathlib
import re

from rlhf_jax.commands import chat
from rlhf_jax.data.choices import ChoiceFile, choice_row
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "annotate.md").read_text()


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
