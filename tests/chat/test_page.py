"""The page of ``rlhf-jax chat`` served by Gradio and used by its client, around a stand-in for the model."""

import json
import pathlib
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from rlhf_jax.commands.chat_page import make_page, serve
from rlhf_jax.commands.chat_session import Session
from rlhf_jax.data.choices import ChoiceFile
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError
from tests.commands.test_chat_session import Sampled

pytestmark = pytest.mark.slow
client = pytest.importorskip("gradio_client", reason="gradio is not installed; `make chat` installs it")
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">**bold** [a](javascript:alert(3))'
ASKED = (Message("system", HOSTILE), Message("user", "from the file"))


def answer(turns: Sequence[Message], n: int, seed: int, draw: int) -> Sampled:
    return Sampled([f"{HOSTILE} {draw} {number}" for number in range(n)], np.array([[0.25], [0.75]]), cut=draw == 1)


class Served:
    """A page, where it is, the file behind it, and what this process has looked up or connected to since."""

    def __init__(self, page: Any, url: str, path: pathlib.Path, reached: list[str]) -> None:
        self.page, self.url, self.path, self.reached = page, url, path, reached

    def open(self) -> Any:
        return client.Client(self.url, verbose=False)

    def get(self, path: str = "", **headers: str) -> Any:
        request = urllib.request.Request(self.url + path, headers=headers)
        return urllib.request.urlopen(request, timeout=30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path, reached = tmp_path_factory.mktemp("page") / "labels.jsonl", list[str]()

    def listen(event: str, found: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto") and isinstance(found[1], tuple):
            reached.append(str(found[1][0]))
        elif event == "socket.getaddrinfo":
            reached.append(str(found[0]))

    sys.addaudithook(listen)  # hears of every connection, and stays: there is no way to take it off
    with ChoiceFile(path) as file:
        session = Session(answer, file, annotator="alex", model="m", seed=0, settings={})
        page = make_page(session, [ASKED], go_on=False)
        yield Served(page, serve(page, "127.0.0.1", None), path, reached)
        page.close()


def test_two_answers_are_judged_and_read(served: Served) -> None:
    page = served.open()
    before = len(served.path.read_text().splitlines())
    dialogue, a, b, said, *buttons = page.predict("a question", False, api_name="/ask")
    assert dialogue == "user: a question"
    assert {a[:-2], b[:-2]} == {f"{HOSTILE} {a[-3]}"}  # character for character
    assert not re.search(r"0\.[27]5", json.dumps([dialogue, a, b, said, buttons]))  # blind
    assert all(button["interactive"] for button in buttons)
    dialogue, a_after, b_after, said, *buttons = page.predict(api_name="/choose_b")
    assert (a_after, b_after) == ("", "")
    assert dialogue == f"user: a question\n\nassistant: {b}"
    assert "0.250" in said
    assert "0.750" in said
    assert not any(button["interactive"] for button in buttons)
    assert "nothing to judge" in page.predict(api_name="/choose_b")[3]
    record = read_file(served.path).records[before]
    assert len(read_file(served.path).records) == before + 1
    assert [one.text for one in record.responses] == [b, a]


def test_pages_do_not_see_each_other(served: Served) -> None:
    one, other = served.open(), served.open()
    one.predict("mine", False, api_name="/ask")
    assert "nothing to judge" in other.predict(api_name="/tie")[3]
    assert one.predict(api_name="/skip")[3] == "skipped"


def test_prompts_of_a_file_come_once(served: Served) -> None:
    page = served.open()
    assert page.predict(api_name="/next_prompt")[0] == f"system: {HOSTILE}\n\nuser: from the file"
    page.predict(api_name="/tie")
    assert page.predict(api_name="/next_prompt")[3] == "no further prompts"
    assert read_file(served.path).records[-1].messages == ASKED


def test_what_models_and_people_wrote_is_shown_by_text_boxes_alone(served: Served) -> None:
    config = json.load(served.get("config"))
    kinds = {one["id"]: one["type"] for one in config["components"]}
    shown = {kinds[place] for one in config["dependencies"] for place in one["outputs"]}
    assert shown == {"state", "textbox", "button"}
    assert not {"html", "markdown", "chatbot", "json", "highlightedtext"} & set(kinds.values())
    assert not config["analytics_enabled"]
    assert not config["run_history"]


def test_nothing_is_loaded_from_elsewhere(served: Served) -> None:
    with served.get() as answer:
        html, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert not re.search(r"https?:|//", re.sub(r"data: blob:", "", policy))
    loaded = re.findall(r"""<(?:script|link|img|iframe)[^>]*?(?:src|href)=["']([^"']*)""", html)
    assert loaded
    assert [one for one in loaded if re.match(r"https?:|//", one) and not one.startswith(served.url)] == []
    with served.get("theme.css") as answer:
        assert "url(http" not in answer.read().decode()


def test_nobody_else_is_called(served: Served) -> None:
    served.open().predict("a question", False, api_name="/ask")
    assert served.reached
    assert {one.strip("b'") for one in served.reached} <= {"127.0.0.1", "localhost", "0.0.0.0", "None"}


def test_it_is_served_here_and_under_its_own_name(served: Served) -> None:
    port = int(served.url.rstrip("/").rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):  # whoever listens everywhere is there too
        socket.create_connection(("127.0.0.2", port), timeout=5)
    with pytest.raises(urllib.error.HTTPError) as refused:
        served.get(Host="elsewhere.example")
    assert refused.value.code == 400
    assert served.page.share_url is None


def test_a_port_that_is_taken_is_told(served: Served, tmp_path: pathlib.Path) -> None:
    port = int(served.url.rstrip("/").rpartition(":")[2])
    with ChoiceFile(tmp_path / "labels.jsonl") as file:
        page = make_page(Session(answer, file, annotator="", model="", seed=0, settings={}), [], go_on=False)
        with pytest.raises(UserError, match="--port"):
            serve(page, "127.0.0.1", port)
