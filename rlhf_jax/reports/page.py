"""A page as a folder that opens from disk: ``index.html``, plotly's script beside it, and the figures for papers.

Whatever users and models wrote is escaped; the page loads the script beside it, and its policy forbids all else.
"""

import base64
import functools
import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rlhf_jax.console import clean_text
from rlhf_jax.metrics import write_text_atomically
from rlhf_jax.reports.plot_paper import paper
from rlhf_jax.reports.plot_web import web
from rlhf_jax.reports.sections import Page
from rlhf_jax.reports.style import THEMES

SCRIPT = "plotly.min.js"
TWINS = ("pdf", "png")
_MARK = "rlhf_jax report</title>"
_FIGURE = re.compile(r'href="figures/(\w+\.\w+)"')


def write_page(page: Page, folder: Path) -> Path:
    """Write the page into ``folder``, in place of the page that was there; returns the path of ``index.html``.

    The same page gives the same bytes. Figures of an earlier page that this one has not are taken away.
    """
    plots = [section.plot for section in page.sections if section.plot]
    twins = {
        f"{plot.name}.{form}": data for plot in plots for form, data in zip(TWINS, paper(plot, *TWINS), strict=True)
    }
    html, index = render(page), folder / "index.html"
    earlier = _FIGURE.findall(index.read_text(encoding="utf-8")) if is_page(folder) else []
    for name, data in twins.items():
        _write_bytes(folder / "figures" / name, data)
    if plots:
        _write_bytes(folder / SCRIPT, _plotly().encode())
    write_text_atomically(index, html)
    for name in earlier:
        if name not in twins:
            (folder / "figures" / name).unlink(missing_ok=True)
    return index


def is_page(folder: Path) -> bool:
    """Whether a folder holds a page that was written here."""
    index = folder / "index.html"
    return index.is_file() and _MARK in index.read_text(encoding="utf-8", errors="replace")


def render(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rlhf_jax.reports", "."),
        autoescape=True,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    code = environment.get_template("page.js.j2").render(themes_json=_inline(THEMES))
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        page=page,
        themes=THEMES,
        script=any(section.plot for section in page.sections),
        code=Markup(code),  # noqa: S704, our own file
        # The browser reads every end of line as one.
        script_hash=Markup(digest),  # noqa: S704, base64
        web=lambda panel: _inline(web(panel)),
    )


def _inline(value: Mapping[str, Any]) -> Markup:
    """JSON that may stand in a script element: no "<", so that nothing ends it early, and only ASCII."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704, escaped in the line above


def _clean(value: Any) -> Any:
    """What the page prints, without control characters; text that is markup already passes."""
    return clean_text(value) if type(value) is str else value


@functools.cache
def _plotly() -> str:
    # Imported here: a run needs it once, at its end.
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
