"""The code and the command of the page on over-optimisation work."""

import pathlib
import re
import shlex

import pytest

from rlhf_jax.data.gold import load_gold
from rlhf_jax.flags import parse

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "overoptimisation.md").read_text()


def test_the_gold_of_the_page_is_one(tmp_path: pathlib.Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    assert load_gold(f"{tmp_path / 'mine.py'}:brief")("", "one two three") == pytest.approx(0.3)


def test_the_command_of_the_page_parses(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pathlib.Path(__file__).resolve().parents[2])
    (command,) = re.findall(r"```bash\n(.*?)```", PAGE.replace("\\\n", " "), re.DOTALL)
    words = [word.replace("runs/quickstart", str(tmp_path)) for word in shlex.split(command) if word.startswith("--")]
    assert parse(words).config.ppo.monitor.action == "stop"
