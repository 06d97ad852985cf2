import errno
import io
import sys

import pytest
from rich.console import Console as RichConsole

from rlhf_jax.console import Console, clean_text, samples_table, shorten


def test_without_a_terminal_each_interval_is_one_line_with_rate_and_time_left():
    now = iter([0.0, 10.0, 20.0])
    file = io.StringIO()
    with Console(300, "sft", start=100, console=RichConsole(file=file), clock=lambda: next(now)) as console:
        console.log(110, {"loss": 1.2345})
        console.advance(111)
        console.log(120, {"loss": 0.5, "grad_norm": 0.000012})
    lines = file.getvalue().splitlines()
    assert lines == [
        "sft      110/300  loss 1.23  1.00 steps/s  eta 3:10",
        "sft      120/300  loss 0.500  grad_norm 1.2e-05  1.00 steps/s  eta 3:00",
    ]


def test_on_a_terminal_a_bar_is_drawn():
    file = io.StringIO()
    terminal = RichConsole(file=file, force_terminal=True, width=100)
    with Console(10, "reward", console=terminal) as console:
        console.advance(4)
        console.log(5, {"loss": 0.25})
    assert "5/10" in file.getvalue()
    assert "loss" in file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_output_that_nobody_reads_is_an_error_of_the_caller(monkeypatch, terminal):
    """Not an end of the program, which those who write down how a run ends would not see."""

    class Gone(io.StringIO):
        broken = False

        def isatty(self):
            return terminal

        def write(self, text):
            if self.broken:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            return super().write(text)

    file = Gone()
    monkeypatch.setattr(sys, "stdout", file)
    with Console(10, "sft") as console:
        console.print("read")
        file.broken = True
        with pytest.raises(BrokenPipeError):
            console.print("not read")


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("a\x00b\x08c\rd", "abcd"),
        ("\x9b2Jx\u202ey", "2Jxy"),
        ("line\n\ttab", "line\n\ttab"),
        ("half \ud800 of a pair", "half \ufffd of a pair"),
    ],
)
def test_clean_text(dirty, clean):
    assert clean_text(dirty) == clean


def test_shorten_cuts_with_an_ellipsis_within_the_limit():
    assert shorten("one\n two", 20) == "one two"
    assert shorten("abcdefgh", 4) == "abc…"


def test_critiques_have_a_column_where_there_are_any():
    for critique, columns in (("so \x1b[31mso", 5), ("", 4), (None, 4)):
        file = io.StringIO()
        row = {"prompt": "p", "response": "r", "critique": critique, "proxy": 0.5, "gold": None}
        samples_table(iter([row]), "after", console=RichConsole(file=file, width=100))
        header = next(line for line in file.getvalue().splitlines() if "prompt" in line)
        assert header.count("┃") == columns + 1
        assert ("so so" in file.getvalue()) == bool(critique)
        assert "\x1b" not in file.getvalue()


def test_samples_table_shows_text_as_text_and_cuts_it():
    file = io.StringIO()
    rows = [
        {"prompt": "[bold]p[/bold]", "response": "\x1b[2Jhello", "proxy": 0.5, "gold": None},
        {"prompt": "q", "response": "x" * 500, "proxy": None, "gold": 1.0},
    ]
    samples_table(rows, "after", console=RichConsole(file=file, width=100))
    shown = file.getvalue()
    assert "[bold]p[/bold]" in shown
    assert "hello" in shown
    assert "0.500" in shown
    assert "\x1b" not in shown
    assert "…" in shown
    assert shown.count("x") < 200
