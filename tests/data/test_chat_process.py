"""A chat template is somebody's program: what it may not do, how it ends, and that honest rows are not ended by it."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

from rlhf_jax.data.chat import process
from rlhf_jax.data.chat.process import Request, renderer
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError
from tests.data.chats import CHATML, turns

ASKED: list[Request] = [(turns("hello"), True)]
HUNGRY = {
    "power": "{{ 10 ** (10 ** 8) }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}",
}
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ self.__init__.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ raise_exception.__globals__.__builtins__.open('CANARY', 'w') }}",
    "{{ (messages | attr('__class__')).__base__ }}",
    "{{ '%s' | format(messages.__class__.__init__.__globals__) }}",
    "{{ messages.append(messages) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{% set n = namespace(__class__='x') %}{{ n }}",
    "{% set n = namespace() %}{% set n.__class__ = 'x' %}{{ n }}",
    "{{ lipsum.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
)


def render(template: str, requests: list[Request] = ASKED) -> list[process.Rendered]:
    with renderer(template, {"eos_token": "<eos>"}, "FOLDER") as made:
        return made.render(requests)


@pytest.mark.parametrize("name", HUNGRY)
def test_a_template_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(process, "CPU_SECONDS", 0)  # rounded up: what is left of a second
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"^data\.chat: the chat template of FOLDER takes more than 0 s of processor time"
    ):
        render(HUNGRY[name])
    assert time.monotonic() - start < 10


def test_the_clock_ends_a_template_that_uses_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WALL_SECONDS", 0.3)
    with renderer(CHATML, {}, "FOLDER") as made:
        os.kill(made._pipes.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(UserError, match=r"gives no answer within 0.3 s$"):
            made.render(ASKED)
        assert time.monotonic() - start < 10
    assert made._pipes.poll() is not None  # and gone


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 'x' * 4000000000 }}", r"needs more than 1 GiB of memory$"),
        ("{% for a in range(9999) %}{{ 'x' * 1000 }}{% endfor %}", r"writes more than 100,000 characters and 16 times"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", None),
    ],
)
def test_memory_and_length_are_limited(template: str, why: str | None) -> None:
    if why is None:
        assert "recursion" in render(template)[0][1].lower()
        return
    with pytest.raises(UserError, match=f"chat template of FOLDER {why}"):
        render(template)


def test_escapes_lead_nowhere(tmp_path: pathlib.Path) -> None:
    for template in ESCAPES:
        canary = tmp_path / "canary"
        try:
            ((text, why),) = render(template.replace("CANARY", str(canary)))
        except UserError as error:
            text, why = None, str(error)
        assert not text, template
        assert text == "" or why, template
        assert not canary.exists()


def test_it_finds_what_this_process_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # An interpreter that has no packages of its own, as one whose packages are in PYTHONPATH or a user's folder.
    monkeypatch.setattr(sys, "executable", sys._base_executable)
    assert render("{{ messages[0].content }}")[0] == ("hello", "")


def test_a_process_that_does_not_start_is_not_the_templates_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho one >&2; echo 'libpython.so: cannot open shared object file' >&2; exit 127\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(UserError, match=r"templates does not start \(libpython\.so: cannot open shared object file\)$"):
        render("{{ messages }}")


def test_the_process_knows_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYLD_LIBRARY_PATH", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    program = pathlib.Path(process.__file__).with_name("child.py")
    code = f"import runpy, sys; runpy.run_path({str(program)!r}, run_name='child'); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(name in loaded for name in ("'jax", "'numpy", "'transformers", "'rlhf_jax", "'socket'"))
    with renderer(CHATML, {}, "FOLDER") as made:
        environment = pathlib.Path(f"/proc/{made._pipes.pid}/environ")
        if not environment.exists():
            pytest.skip("no /proc")
        assert environment.read_bytes() == b"LD_LIBRARY_PATH=/nowhere\0"
        limits = (
            resource.prlimit(made._pipes.pid, resource.RLIMIT_AS),
            resource.prlimit(made._pipes.pid, resource.RLIMIT_FSIZE),
        )
        assert limits == ((2**30, 2**30), (0, 0))


def test_honest_rows_have_time_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CPU_SECONDS", 1)
    slow = "{% for a in range(90000) %}{{ '' }}{% endfor %}{{ messages[0].content }}"
    with renderer(slow, {}, "FOLDER") as made:
        spent = pathlib.Path(f"/proc/{made._pipes.pid}/stat")
        if not spent.exists():
            pytest.skip("no /proc")
        # All batches together take longer than any of them may.
        while int(spent.read_text().split()[13]) / os.sysconf("SC_CLK_TCK") < 2.1:
            assert made.render([([Message("user", "x")], True)] * 8) == [("x", "")] * 8
    wide: list[Request] = [([Message("user", "x" * 3_000_000)], True)] * 2  # each a batch of its own
    assert [len(text or "") for text, _ in render(CHATML, wide)] == [3_000_050] * 2


def test_answers_are_in_order_and_refusals_apart() -> None:
    template = "{{ raise_exception('no ' + messages[0].content) if messages[0].content == '3' else messages | tojson }}"
    requests: list[Request] = [([Message("user", str(place))], False) for place in range(600)]
    found = render(template, requests)
    assert found[3] == (None, "no 3")
    for place, (text, why) in enumerate(found):
        if place != 3:
            assert (json.loads(text or ""), why) == ([{"role": "user", "content": str(place)}], "")
    assert render("{% generation %}{{ eos_token }}{% endgeneration %}{{ 'é<' | tojson }}") == [('<eos>"é<"', "")]
    assert render("{{ strftime_now('%Y') if strftime_now is defined else 'undated' }}") == [("undated", "")]
