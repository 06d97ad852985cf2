"""The tokenizer of a chat model, as transformers reads it after an export."""

import pathlib

import pytest
import transformers

from rlhf_jax.commands import export
from rlhf_jax.errors import UserError
from tests.data.chats import CHATML, backend, plain, turns
from tests.data.test_chat import tokenizer

DIALOGUES = (turns("hello"), turns("the quick", "brown", "fox", system="s"))


def test_what_a_template_calls_eos_token_stays_what_it_was(tmp_path: pathlib.Path) -> None:
    # As a document would: one token between dialogues, another at the end of each turn.
    template = "\n{{ eos_token }}" + CHATML
    own = backend("bytes", template)
    export._write_tokenizer(tokenizer(template), tmp_path, 64, padding_side="left")
    back = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert (own.eos_token, back.eos_token) == ("<eos>", "<|im_end|>")
    for dialogue in DIALOGUES:
        asked = plain(dialogue)
        assert back.apply_chat_template(asked, tokenize=False) == own.apply_chat_template(asked, tokenize=False)
        assert own.apply_chat_template(asked, tokenize=False).startswith("\n<eos><|im_start|>")


def test_other_dialogues_are_no_export(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only where the system speaks does this template differ once its token is another.
    template = "{% if messages[0].role == 'system' %}{{ eos_token }}{% endif %}" + CHATML
    monkeypatch.setattr(export, "json", type("json", (), {"dumps": staticmethod(lambda _: "'</turn>'")}))
    with pytest.raises(UserError, match="other ids than the run's"):
        export._write_tokenizer(tokenizer(template), tmp_path, 64, padding_side="left")
