"""Runs whose dialogues are rendered by the tokenizer's chat template."""

import json
import pathlib
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from rlhf_jax.build import inherit_model
from rlhf_jax.build.ahead import plan_context
from rlhf_jax.build.context import checked_run, make_context, parents_tokenizer
from rlhf_jax.build.plan import describe_plan
from rlhf_jax.commands import prepare
from rlhf_jax.config import default_config, to_json, validate
from rlhf_jax.data.examples import list_examples, sft_examples
from rlhf_jax.data.tokenizers import load_tokenizer
from rlhf_jax.errors import UserError
from tests.data.chats import CHATML, backend


def rows(path: pathlib.Path) -> pathlib.Path:
    """Forty preferences, half of them after a longer dialogue."""
    lines = []
    for place in range(40):
        dialogue = [{"role": "system", "content": "hush"}, {"role": "user", "content": f"ask {place}"}]
        if place % 2:
            dialogue += [{"role": "assistant", "content": "so"}, {"role": "user", "content": "and <|im_end|> ?"}]
        pair = {
            field: [*dialogue, {"role": "assistant", "content": f"{field} answer"}] for field in ("chosen", "rejected")
        }
        lines.append(json.dumps(pair) + "\n")
    path.write_text("".join(lines))
    return path


def folder(path: pathlib.Path, template: str = "chatml") -> pathlib.Path:
    made = backend("bytes", template)
    made.save_pretrained(str(path))
    return path


def chat_config(tmp_path: pathlib.Path) -> ConfigDict:
    config = default_config()
    config.stages = ("sft", "reward")
    config.data.update({"path": str(rows(tmp_path / "rows.jsonl")), "chat": True, "max_prompt": 96})
    config.data.validation_fraction, config.sft.row_length = 0.3, 128
    config.tokenizer.kind, config.tokenizer.path = "pretrained", str(folder(tmp_path / "tokenizer"))
    return config


def test_a_run_reads_dialogues_by_the_template(tmp_path: pathlib.Path) -> None:
    config = chat_config(tmp_path)
    validate(config)
    made = make_context(config, tmp_path / "run")
    tokenizer = made.tokenizer
    start, end = (tokenizer.backend.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    assert tokenizer.eos_id == end != tokenizer.backend.eos_token_id
    assert load_tokenizer(tmp_path / "run" / "tokenizer").backend.chat_template == CHATML
    # What was kept is what the run finds when it goes on.
    again = make_context(config, tmp_path / "run")
    lists, _ = list_examples(made.data.lists, tokenizer, 96, 20)
    for one, other in zip(lists, list_examples(again.data.lists, again.tokenizer, 96, 20)[0], strict=True):
        assert one.prompt.tolist() == other.prompt.tolist()
        turns = len(made.data.lists[one.index].messages)
        assert one.prompt.tolist().count(start) == turns + 1
        assert one.prompt.tolist().count(end) == turns
        assert [ids.tolist() for ids in one.responses] == [
            [*tokenizer.encode(f"{field} answer"), end] for field in ("chosen", "rejected")
        ]
    shown, _ = sft_examples(made.data.sft, tokenizer, 96, 20)
    assert {tuple(one.prompt.tolist()) for one in shown} == {tuple(one.prompt.tolist()) for one in lists}
    assert "head read without fault" in describe_plan(config, None)


def test_a_plan_reads_a_prepared_folder_by_the_template_too(tmp_path: pathlib.Path) -> None:
    config = chat_config(tmp_path)
    prepare.main([config.data.path, f"--out={tmp_path / 'ready'}", f"--tokenizer={config.tokenizer.path}", "--chat"])
    config.data.path = str(tmp_path / "ready")
    planned = plan_context(config, jax.devices()[:1])
    assert planned.tokenizer.eos_id == planned.tokenizer.backend.convert_tokens_to_ids("<|im_end|>")
    assert len(planned.data.lists) == 40


def test_runs_that_read_dialogues_otherwise_do_not_go_together(tmp_path: pathlib.Path) -> None:
    config = chat_config(tmp_path)
    runs = {}
    for name, template, asked in (("a", "chatml", True), ("b", "thoughtful", True), ("c", "chatml", False)):
        (tmp_path / name).mkdir()
        config.data.chat = asked
        (tmp_path / name / "config.json").write_text(to_json(config))
        runs[name] = str(folder(tmp_path / name / "tokenizer", template).parent)
    child = default_config()
    child.stages = ("reward",)
    child.reward.init = "sft"
    child.data.update({"path": config.data.path, "chat": True})
    child.parents.sft = runs["c"]
    child.tokenizer.kind = "pretrained"
    child.tokenizer.path = config.tokenizer.path
    with pytest.raises(UserError, match=r"^config\.data\.chat: True, but .*c \(config\.parents\.sft\) was .* False$"):
        inherit_model(child)
    child.parents.update({"sft": runs["a"], "reward_start": runs["b"]})
    with pytest.raises(UserError, match=r"b/tokenizer and .*a/tokenizer hold different chat templates$"):
        parents_tokenizer(child)
    config.data.chat = True
    context = make_context(config, tmp_path / "a")
    assert checked_run(context, tmp_path / "a", "key").data.chat
    for other in ("b", "c"):
        with pytest.raises(UserError, match=r"^key: .*another config\.data\.chat or another chat template$"):
            checked_run(context, tmp_path / other, "key")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data.template": "Q: {prompt}"}, r"config\.data\.template: .*would go unused: config\.data\.chat"),
        ({"tokenizer.kind": "byte"}, r"config\.data\.chat: config\.tokenizer\.kind=byte has no chat template"),
        ({"stages": ("segments",)}, r"config\.data\.chat: stage segments"),
        ({"data.chat": "yes"}, r"config\.data\.chat"),
    ],
)
def test_settings_that_would_go_unused(tmp_path: pathlib.Path, change: dict[str, Any], says: str) -> None:
    config = chat_config(tmp_path)
    with config.ignore_type():
        config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=says):
        validate(config)
