"""What goes into the site, and what is looked for in it when it is built (``make docs``)."""

import json
import pathlib

import pytest

from docs.check import problems
from tests.docs.pages import ROOT

GOOD = '<link href="style.css"><a href="sub/two.html#here">two</a><a href="https://example.org/x">away</a><p id="top">'


@pytest.fixture
def site(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two pages and a style, of which nothing is amiss."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "sub" / "two.html").write_text(
        '<h2 id="here">Two</h2><a href="../index.html#top">back</a><a href="#here">'
    )
    (tmp_path / "style.css").write_text('a { background: url("data:image/png;base64,AA") }')
    return tmp_path


def test_a_site_in_order_has_no_problems(site: pathlib.Path) -> None:
    assert list(problems(site)) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('<a href="three.html">', "no three.html"),
        ('<a href="sub/two.html#nowhere">', "no place sub/two.html#nowhere"),
        ('<a href="#nowhere">', "no place #nowhere"),
        ('<img src="picture.png">', "no picture.png"),
        ('<script src="https://example.org/x.js"></script>', "loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads //example.org/x.css"),
    ],
)
def test_what_is_wrong_is_told(site: pathlib.Path, wrong: str, told: str) -> None:
    (site / "index.html").write_text(GOOD + wrong)
    (found,) = problems(site)
    assert found.endswith(f"index.html: {told}")


def test_a_font_from_elsewhere_is_told(site: pathlib.Path) -> None:
    (site / "style.css").write_text("@import 'https://fonts.example.org/x'; a { src: url(//example.org/y.woff) }")
    assert [line.partition(": ")[2] for line in problems(site)] == [
        "loads https://fonts.example.org/x", "loads //example.org/y.woff",
    ]  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_kept_without_what_it_printed(path: pathlib.Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for cell in code:
        compile("".join(cell["source"]), path.name, "exec")
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
