"""The pages of docs/reference/ are those that the code gives, and leave nothing out."""

import re
from fnmatch import fnmatch

import pytest

from docs.generate import REFERENCE, pages
from rlhf_jax.build.identity import settings
from rlhf_jax.commands import NAMES
from rlhf_jax.config import default_config, leaves
from rlhf_jax.metrics import UNITS

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_gives(name: str) -> None:
    assert (REFERENCE / name).read_text() == PAGES[name], "run `.venv/bin/python -m docs.generate`"


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in REFERENCE.iterdir()} == PAGES.keys()


def test_every_setting_has_a_row_with_its_default() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .+? \| (\S.*?) \| .*? \| \S.* \|$", PAGES["config.md"], re.MULTILINE)
    found = dict(rows)
    assert len(found) == len(rows)
    for key, default in leaves(default_config()):
        stage, _, name = key.partition(".optimizer.")
        told = found[f"STAGE.optimizer.{name}" if name else key]
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        text = text.lower() if isinstance(default, bool) else text
        assert told in (f"`{text}`" if text else "empty",) or f"{stage} `{text}`" in told, key


def test_the_page_on_reliability_says_how_many_there_are_and_which_may_change_unasked() -> None:
    text = " ".join((REFERENCE.parent / "reliability.md").read_text().split())
    keys = [key for key, _ in leaves(default_config())]
    (count,) = re.findall(r"Each of the (\d+) keys", text)
    assert int(count) == len(keys)
    (free,) = re.findall(r"Only ([^.]*(?:\.\S[^.]*)*) may change unasked\.", text)
    patterns = re.findall(r"`(.+?)`", free)
    named = {key for key in keys if any(fnmatch(key, pattern) for pattern in patterns)}
    assert named == set(keys) - settings(default_config()).keys()


def test_every_metric_and_every_command_is_there() -> None:
    rows = re.findall(r"^\| `([\w.]+)`(?:, `[\w.]+`)? \| \S.* \|$", PAGES["metrics.md"], re.MULTILINE)
    assert sorted(rows) == sorted(UNITS)
    assert re.findall(r"^## rlhf-jax(?: (.+))?$", PAGES["commands.md"], re.MULTILINE) == ["", *NAMES]
