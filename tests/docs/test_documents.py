"""What the documents point to exists."""

import pathlib
import re

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, name_of

WEB = r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w.,~%+/-]*)?(\?[\w=&-]+)?(#[\w-]+)?"

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@every_page
def test_no_link_is_dead_and_no_gap_is_left(page: pathlib.Path) -> None:
    text = page.read_text()
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@every_page
def test_a_link_that_leaves_is_well_formed(page: pathlib.Path) -> None:
    """Whether the other end is there cannot be told here."""
    for target in re.findall(r"(?:\]\(|<)([a-z]+:[^)>\s]*)", page.read_text()):
        assert re.fullmatch(WEB, target), target


def test_the_readme_has_commands() -> None:
    assert len(blocks(ROOT / "README.md", "bash")) >= 5
    assert {"make quickstart", "make test"} <= set(re.findall(r"make \w+", (ROOT / "README.md").read_text()))


def test_every_file_stands_in_its_room() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert len(rows) >= 12
    for room, files in rows:
        there = {path.stem for path in (ROOT / "rlhf_jax" / room).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert set(re.findall(r"`(\w+)/?`", files)) == there - {"__init__", "__pycache__"}, room
