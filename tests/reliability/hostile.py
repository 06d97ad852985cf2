"""What tests of hostile files share: a canary that must not sing, and a watch over time, memory and files."""

import contextlib
import html
import html.parser
import os
import pathlib
import pickle
import re
import resource
import signal
from collections.abc import Iterator
from typing import Any

from rlhf_jax.errors import UserError

SECONDS, BYTES = 2.0, 2**30
HANG = 20  # seconds after which a try is cut off


class Sings:
    """Unpickled, it makes a file."""

    def __init__(self, canary: pathlib.Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def pickled(canary: pathlib.Path) -> bytes:
    return pickle.dumps(Sings(canary))


def code(canary: pathlib.Path, rest: str = "") -> str:
    """A Python file that makes a file when it is run."""
    return f"import os\nif not os.path.exists({str(canary)!r}):\n    os.mkdir({str(canary)!r})\n{rest}"


def tree(root: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with what changes when it is written."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            what = os.lstat(path)
            found[path] = (what.st_size, what.st_mtime_ns)
    return found


def _memory(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _cut_off(*_: object) -> None:
    raise TimeoutError(f"cut off after {HANG} s")


@contextlib.contextmanager
def watched(root: pathlib.Path, canary: pathlib.Path) -> Iterator[None]:
    """Nothing below ``root`` changes, the canary does not appear, memory grows by at most 1 GiB, and it ends."""
    before, held = tree(root), 0
    if counts := os.path.exists("/proc/self/clear_refs"):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        held = _memory("VmRSS")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if counts:  # a protection that fails must not take the machine with it
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 3 * BYTES, hard))
    old = signal.signal(signal.SIGALRM, _cut_off)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, old)
    assert not canary.exists(), "the canary sang"
    assert tree(root) == before, "something was written"
    if counts:
        assert _memory("VmHWM") - held < BYTES, "more than 1 GiB"


def one_line(error: UserError, *secrets: str) -> str:
    """The message, which is one printable line of bearable length and tells none of the secrets."""
    text = str(error)
    assert "\n" not in text, text
    assert len(text) < 1500, len(text)
    assert not any(secret in text for secret in secrets), text
    return text


# ------------------------------------------------------------------------- texts

# Ends a script and an attribute, loads a picture, colours and names a terminal, is markup to rich, a formula to a
# spreadsheet, a row to Markdown, mathematics to matplotlib, and turns round what follows.
TEXTS = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onload=\"alert(3)",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\link \x9b31m \x00 \x08\x7f",
    "[red]x[/red] [link=http://evil.example]y[/link] [/] :skull:",
    "=cmd|' /C calc'!A0",
    "| a | b |\n![x](http://evil.example/p.png) [x](javascript:alert(4)) `tick` <!-- -->",
    "\u202egnp.exe $x^{$ %{x} {{ 7 * 7 }} \u2066",
)  # fmt: skip

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Shape(html.parser.HTMLParser):
    """What of a page is no text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def see_page(path: pathlib.Path, shown: str = "onerror=alert(2)") -> None:
    """No tag, attribute or address but the page's own, no control characters; and a hostile text is there, as text."""
    page = path.read_text(encoding="utf-8")
    shape = Shape(page)
    data = re.findall(r'<script type="application/json"', page)
    assert shape.tags.count("script") <= len(data) + 2
    assert not [name for name, _ in shape.attributes if name.startswith("on")]
    assert not [value for _, value in shape.attributes if value and "evil.example" in value.replace("http://", "")]
    assert not [value for name, value in shape.attributes if name in ("href", "src") and ":" in str(value)]
    assert not CONTROLS.search(page)
    assert shown in html.unescape(page)
