"""``rlhf-jax chat`` from its words to its file, around a stand-in for the model."""

import json
import pathlib
from typing import Any

import pytest

from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Message
from rlhf_jax.main import main
from tests.chat.test_page import answer, client

pytestmark = pytest.mark.slow
gradio = pytest.importorskip("gradio", reason="gradio is not installed; `make chat` installs it")
PROMPTS = ("judged before", "waiting")


class Speaker:
    judged, in_chat = True, True

    def __init__(self, run: pathlib.Path, stage: str, reward: str, sampling: Any) -> None:
        self.made = (stage, reward, sampling.temperature)
        self.answer = answer
        made.append(self.made)

    def prompts(self, path: str) -> list[tuple[Message, ...]]:
        return [(Message("user", text),) for text in PROMPTS]


made: list[tuple[str, str, float]] = []


def test_a_session_from_its_words_to_its_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    # Not by capsys: around a server in threads it takes pytest's own output away.
    monkeypatch.setattr("rlhf_jax.commands.chat.print", lambda text, **_: printed.append(text), raising=False)
    monkeypatch.setattr("rlhf_jax.commands.chat.say", printed.append)
    run, out = tmp_path / "run", tmp_path / "labels.jsonl"
    for stage in ("sft", "reward", "ppo"):
        (run / "checkpoints" / stage).mkdir(parents=True)
    (run / "config.json").write_text("{}")
    before = {"prompt": PROMPTS[0], "responses": [{"text": "a", "rank": 0}, {"text": "b", "rank": 1}]}
    out.write_text(json.dumps(before) + "\n" + '{"prompt": "half')

    def used(page: Any) -> None:
        tab = client.Client(page.local_url, verbose=False)
        assert tab.predict(api_name="/next_prompt")[0] == f"user: {PROMPTS[1]}"
        tab.predict(api_name="/choose_a")
        assert tab.predict(api_name="/next_prompt")[3] == "no further prompts"
        page.close(verbose=False)

    monkeypatch.setattr("rlhf_jax.build.chat.Speaker", Speaker)
    monkeypatch.setattr(gradio.Blocks, "block_thread", used)
    main(["chat", str(run), f"--out={out}", "--prompts=any", "--annotator=alex", "--temperature=0.5"])
    assert made == [("ppo", "", 0.5)]
    mended, where, ended = printed
    assert mended.startswith(f"{out}:2: a line cut short")
    assert where.startswith("http://127.0.0.1:")
    assert "ppo, scored by its reward model; 1 prompts wait" in where
    assert ended == f"{out}: 1 judgements added, 2 in all"
    records = read_file(out).records
    assert [(one.prompt, one.annotator) for one in records] == [(PROMPTS[0], ""), (PROMPTS[1], "alex")]
    assert json.loads(out.read_text().splitlines()[1])["temperature"] == 0.5
