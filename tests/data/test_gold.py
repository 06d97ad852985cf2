"""A gold of one's own: read from a file, and every mistake in it told in one line."""

import pathlib

import pytest

from rlhf_jax.build.data import load_data
from rlhf_jax.config import default_config, validate
from rlhf_jax.data.gold import load_gold
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.policy import gold_metrics

CODE = """
import math

def words(prompt, response):
    return len(response.split()) - 0.5 * len(prompt.split())

def broken(prompt, response):
    return math.nan if response else "much"

number = 3
"""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    found = tmp_path / "mine.py"
    found.write_text(CODE)
    return found


def test_the_function_is_called_with_prompt_and_response(path: pathlib.Path) -> None:
    assert load_gold(f"{path}:words")("two words", "and three more") == 2.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:none", "mine.py defines no function none"),
        ("{}:number", "mine.py defines no function number"),
        ("nowhere.py:words", "no such file: nowhere.py"),
    ],
)
def test_what_is_not_there_is_refused(name: str, message: str, path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=message):
        load_gold(name.format(path))


def test_a_reward_that_is_no_number_is_told_with_its_response(path: pathlib.Path) -> None:
    gold = load_gold(f"{path}:broken")
    with pytest.raises(UserError, match=r"mine\.py:broken: nan is not a finite number, for the response 'yes'"):
        gold("", "yes")
    with pytest.raises(UserError, match="'much' is not a finite number"):
        gold("", "")


def test_mistakes_of_the_file_are_lines_of_their_own(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "gold.py"
    file.write_text("def gold(prompt, response)\n    return 0\n")
    with pytest.raises(UserError, match=r"gold\.py: SyntaxError: expected ':' \(gold\.py, line 1\)$"):
        load_gold(f"{file}:gold")
    file.write_text("def gold(prompt, response):\n    return 1 / len(response)\n")
    with pytest.raises(UserError, match=r"gold\.py:gold: ZeroDivisionError: division by zero, for the response ''$"):
        load_gold(f"{file}:gold")("", "")


def test_a_file_of_feedback_gets_the_gold_that_the_config_names(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Prompts without a type have one figure, and it is of this gold."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a b", "responses": [{"text": "c d e"}, {"text": "f"}]}\n' * 2)
    config = default_config()
    config.tokenizer.kind = "byte"
    config.data.path, config.data.gold = str(rows), f"{path}:words"
    config.data.max_prompt, config.data.max_response = 8, 8
    validate(config)
    data = load_data(config, limit=2)
    assert gold_metrics(data.lists[:1], ["c d e"], data.gold) == {"gold": 2.0}
    config.data.gold = ""
    assert load_data(config, limit=2).gold is None
    config.data.gold = f"{path}:wrods"
    with pytest.raises(UserError, match=r"config\.data\.gold: .* defines no function wrods"):
        load_data(config, limit=2)
    config.data.gold = f"{path}:broken"
    with pytest.raises(UserError, match=r"config\.data\.gold: .*broken: nan is not a finite number"):
        load_data(config, limit=2)


def test_a_gap_needs_a_gold(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    config = default_config()
    config.tokenizer.kind = "byte"
    config.data.path = str(tmp_path / "rows.jsonl")
    config.ppo.monitor.gap = 1.0
    with pytest.raises(UserError, match=r"config.ppo.monitor.gap: 1.0, but gold is not known of config.data.path"):
        validate(config)
    config.data.gold = f"{path}:words"
    validate(config)
    config.data.gold = "words"
    with pytest.raises(UserError, match=r"config.data.gold: 'words' is not allowed, must be FILE.py:FUNCTION"):
        validate(config)
