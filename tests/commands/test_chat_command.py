"""The words after ``rlhf-jax chat``."""

import importlib.util
import pathlib

import pytest

from rlhf_jax.commands.chat import read_order
from rlhf_jax.errors import UserError
from rlhf_jax.main import main


def test_what_the_words_say() -> None:
    order = read_order(["runs/a", "--stage=ppo", "--annotator=alex", "--temperature=0.7", "--port=80", "--seed=5"])
    assert (order.run, order.stage, order.annotator) == (pathlib.Path("runs/a"), "ppo", "alex")
    assert (order.temperature, order.top_p, order.port, order.seed) == (0.7, 1.0, 80, 5)
    plain = read_order(["runs/a"])
    assert (plain.host, plain.port, str(plain.out), plain.stage) == ("127.0.0.1", None, "labels.jsonl", "")
    assert plain.annotator


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "name a run directory"),
        (("a", "b"), "a second run directory"),
        (("a", "--stge=ppo"), "no such option; did you mean --stage"),
        (("a", "--stage=reward"), "'reward' is not one of sft, ppo, dpo, online"),
        (("a", "--temperature=0"), "must be above 0"),
        (("a", "--temperature=warm"), "'warm' is not a number"),
        (("a", "--top_p=1.5"), "1.5 is not in (0, 1]"),
        (("a", "--port=70000"), "'70000' is not a whole number from 0 to 65535"),
        (("a", "--seed=-1"), "'-1' is not a whole number"),
        (("a", "--out="), "no value given"),
    ],
)
def test_a_mistake_is_told(words: tuple[str, ...], error: str) -> None:
    with pytest.raises(UserError) as told:
        read_order(words)
    assert error in str(told.value)


def test_without_gradio_there_is_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "gradio" else found(name))
    monkeypatch.chdir(tmp_path)
    for run, error in ((tmp_path, "needs gradio; pip install 'rlhf_jax[chat]'"), ("none", "not a run directory")):
        with pytest.raises(SystemExit) as stopped:
            main(["chat", str(run)])
        assert stopped.value.code == 2
        told = capsys.readouterr().err
        assert error in told
        assert told.count("\n") == 1
    assert not (tmp_path / "labels.jsonl").exists()
