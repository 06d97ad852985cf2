"""Every experiment has its parts; ids keep to their form; its configs validate; files of lists are what they should."""

import csv
import gzip
import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from experiments import run
from experiments.reward_collapse import analysis, lists
from experiments.reward_collapse.experiment import get_config, predictions
from experiments.reward_collapse.sweep import SETTINGS, SOURCES, STARTS, UTILITIES
from rlhf_jax.config import validate
from rlhf_jax.data.world import prompt_type
from rlhf_jax.errors import UserError

NAMES = run.names()


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_has_its_four_files_and_its_ids_begin_with_its_name(name: str) -> None:
    folder = run.HERE / name
    missing = [
        part for part in ("README.md", "sweep.py", "experiment.py", "analysis.py") if not (folder / part).exists()
    ]
    assert not missing
    settings = importlib.import_module(f"experiments.{name}.sweep").SETTINGS
    assert settings
    assert all(key.startswith(f"{name}/") and " " not in key and key.count("/") == 1 for key in settings)
    assert callable(importlib.import_module(f"experiments.{name}.experiment").run)
    assert callable(importlib.import_module(f"experiments.{name}.analysis").main)


@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_needs_no_jax(name: str) -> None:
    code = f"import sys, experiments.{name}.analysis; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=run.HERE.parent, check=False).returncode == 0


def test_the_ids_of_reward_collapse_have_not_moved() -> None:
    settings = importlib.import_module("experiments.reward_collapse.sweep").SETTINGS
    assert settings["reward_collapse/texts_inverse_seed0"] == ("texts", "inverse", 0)
    assert settings["reward_collapse/world_prompt_aware_seed0"] == ("world", "prompt_aware", 0)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("title", UTILITIES)
def test_the_configs_of_reward_collapse_validate(source: str, title: str, tmp_path: pathlib.Path) -> None:
    config = get_config(f"{source}.{title}")
    config.data.path = str(tmp_path / "lists.jsonl")
    (tmp_path / "lists.jsonl").touch()
    config.tokenizer.path = str(tmp_path)
    if config.reward.init == "reward":
        config.parents.reward_start = str(tmp_path)
    validate(config)


def test_what_a_setting_starts_from_comes_before_it() -> None:
    order = list(SETTINGS.values())
    for source, title, seed in order:
        start = STARTS.get((source, title))
        assert start is None or order.index((source, start, seed)) < order.index((source, title, seed))


def test_world_prefixes_are_cut_from_one_answer_by_the_prompts_own_type() -> None:
    rows = lists.world_prefixes(100)
    assert {row["prompt_type"] for row in rows} == {"open", "closed"}
    assert all(row["prompt_type"] == prompt_type(row["prompt"]) for row in rows)
    assert len({row["prompt"] for row in rows}) == 100
    for row in rows:
        longest, *others = (each["text"] for each in row["responses"])
        assert all(longest.startswith(text) for text in others)
        assert [len(each["text"].split()) for each in row["responses"]] == sorted(
            lists.KEPT[row["prompt_type"]], reverse=True
        )


def test_the_predictions_are_those_of_the_shifted_and_of_the_plain_utility() -> None:
    found = predictions("log")["closed"]
    assert found["trained"] == pytest.approx([1, 1, 0.853696, 0.627212, 0.372788, 0.146304, 0, 0], abs=1e-6)
    assert found["ideal"][1] == pytest.approx(1 - 0.0641299257452, abs=1e-9)


ANSWERS = [("Say much.", " ".join(f"w{i}" for i in range(150))), ("Say little.", "too short"), ("Go on.", "a " * 100)]


@pytest.mark.parametrize("form", ["longform.jsonl", "longform.json", "longform.csv", "lists.jsonl.gz"])
def test_answers_are_read_from_every_form_and_cut_to_prefixes(form: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / form
    rows = [{"input": prompt, "output": answer} for prompt, answer in ANSWERS]
    if form.endswith(".gz"):
        own = [{"prompt": p, "responses": [{"text": "short"}, {"text": a}]} for p, a in ANSWERS]
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in own).encode()))
    elif form.endswith(".csv"):
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ("input", "output"))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows) if form.endswith(".json") else "".join(json.dumps(r) + "\n" for r in rows))
    made = lists.truncations(lists.read_pairs(path), 10)
    assert [row["prompt"].split(". ")[0] for row in made] == ["Say much", "Go on"]
    for row, (_, answer) in zip(made, (ANSWERS[0], ANSWERS[2]), strict=True):
        kept = [len(each["text"].split()) for each in row["responses"]]
        wanted = {
            "open": [80, 70, 60, 50, 40, 30, 20, 10],
            "closed": [74, 68, 62, 56, 34, 28, 22, 16],
        }
        assert kept == wanted[row["prompt_type"]]
        assert [each["rank"] for each in row["responses"]] == list(range(8))
        assert all(answer.startswith(each["text"]) for each in row["responses"])
        assert row["prompt"].endswith("open-ended way." if row["prompt_type"] == "open" else "a long answer.")


def test_a_file_of_another_kind_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "?", "answer": "!"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: row 1: expected 'input'"):
        list(lists.read_pairs(tmp_path / "a.jsonl"))


def test_types_are_drawn_half_and_half_and_the_same_each_time() -> None:
    pairs = [(f"prompt {i}", "a " * 100) for i in range(400)]
    kinds = [row["prompt_type"] for row in lists.truncations(pairs, 400)]
    assert 160 < kinds.count("open") < 240
    assert kinds == [row["prompt_type"] for row in lists.truncations(pairs, 400)]


def test_the_analysis_measures_distances_from_the_files_alone(tmp_path: pathlib.Path) -> None:
    best = {"trained": [1.0] * 4 + [0.0] * 4, "ideal": [1.0] * 4 + [0.0] * 4, "limit": None}
    for title in UTILITIES:
        folder = tmp_path / f"world_{title}_seed0"
        (folder / "rewards").mkdir(parents=True)
        (folder / "predictions.json").write_text(json.dumps({"open": best, "closed": best}))
        rows = [
            {"step": 1, "split": split, "list": place, "prompt_type": kind, "rank": rank, "reward": reward}
            for split in ("train", "validation")
            for place, kind in enumerate(("open", "closed"))
            for rank, reward in enumerate([0.9] * 4 + [0.0] * 4 if kind == "open" else best["trained"])
        ]
        (folder / "rewards" / "reward.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = analysis.main(tmp_path)
    assert found["settings"]["world_log"]["train.w1"] == pytest.approx(0.05)
    assert found["settings"]["world_log"]["train.open.off"] == pytest.approx(0.1)
    assert found["settings"]["world_log"]["train.closed.off"] == 0
    assert any("world: of 4 common utilities 0 end within" in line for line in found["verdict"])
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {"convergence", "world_train", "world_steps"}
    assert any(line.startswith("texts: no records of linear, log") for line in found["verdict"])
    assert json.loads((tmp_path / "verdict.json").read_text()) == found
    assert "| world, log(x + 0.1) | 1 | 0.1000 |" in (tmp_path / "table.md").read_text()
