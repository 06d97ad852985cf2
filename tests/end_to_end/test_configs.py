"""Every file of ``configs/`` is launched by the command in its docstring and makes a few steps of every stage."""

import ast
import math
import pathlib
import shlex
from collections.abc import Callable

import pytest

from rlhf_jax.config import FEEDBACK, ITERATED, from_json
from rlhf_jax.metrics import read_jsonl, read_summary
from tests.end_to_end import tiny
from tests.end_to_end.conftest import Run

pytestmark = pytest.mark.usefixtures("one_device")

CONFIGS = sorted((tiny.ROOT / "configs").glob("*.py"))
LONG = ("critique", "hh_file", "lists_file", "online", "ppo", "ppo_nplus", "ppo_ziegler")  # to compile
TWO_STEPS = (
    *tiny.SIZE,
    "--config.sft.steps=2",
    "--config.reward.steps=2",
    "--config.ppo.iterations=2",
    "--config.dpo.steps=2",
    "--config.online.iterations=2",
    "--config.log.every=1",
)
BPE = (*tiny.FILE, "--config.tokenizer.vocab_size=300")


def _world(quickstart: Run, folder: pathlib.Path) -> tuple[str, ...]:
    return ()


def _parents(quickstart: Run, folder: pathlib.Path) -> tuple[str, ...]:
    return (f"--config.parents.sft={quickstart.workdir}", f"--config.parents.reward={quickstart.workdir}")


def _lists(quickstart: Run, folder: pathlib.Path) -> tuple[str, ...]:
    return (*BPE, f"--config.data.path={tiny.lists_file(folder / 'lists.jsonl')}")


def _hh(quickstart: Run, folder: pathlib.Path) -> tuple[str, ...]:
    return (*BPE, f"--config.data.path={tiny.hh_file(folder / 'hh.jsonl')}")


def _done(quickstart: Run, folder: pathlib.Path) -> None:
    """The run that all these tests share is one of this config."""


# What each config needs besides its command. A new config gets a line here.
RECIPES: dict[str, Callable[[Run, pathlib.Path], tuple[str, ...] | None]] = {
    "dpo": _parents,
    "feedback": _world,
    "hh_file": _hh,
    "lists_file": _lists,
    "online": _parents,
    "ppo": _parents,
    "ppo_nplus": _parents,
    "ppo_ziegler": _parents,
    "quickstart": _done,
    "reward_listwise": _world,
    "reward_pairwise": _world,
    "reward_prompt_aware": _world,
    "sft": _world,
}


# Whole pipelines that take long to compile, and the tests beside this one that run them anyway.
ELSEWHERE = {
    "critique": "test_critique.py",
    "fine_grained": "test_fine_grained.py",
    "llama_8b": "test_large.py",
    "lora": "test_lora.py",
}


def commands(path: pathlib.Path) -> list[list[str]]:
    """The words after ``python -m rlhf_jax`` of every command in a config's docstring."""
    text = (ast.get_docstring(ast.parse(path.read_text())) or "").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m rlhf_jax ")]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in CONFIGS],
    ids=lambda path: path.stem,
)
def test_a_config_makes_its_steps_in_every_stage(
    path: pathlib.Path,
    quickstart: Run,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if path.stem not in RECIPES and path.stem not in ELSEWHERE:
        pytest.fail(f"configs/{path.name} has no recipe: say in RECIPES of {pathlib.Path(__file__).name} what it needs")
    monkeypatch.chdir(tiny.ROOT)
    words = commands(path)
    assert words, f"the docstring of configs/{path.name} holds no line 'python -m rlhf_jax --config=...'"
    assert words[0][0] == f"--config=configs/{path.name}"
    if path.stem in ELSEWHERE:
        assert f"'configs' / '{path.name}'" in pathlib.Path(__file__).with_name(ELSEWHERE[path.stem]).read_text()
        return
    extra = RECIPES[path.stem](quickstart, tmp_path)
    if extra is None:
        workdir = quickstart.workdir
    else:
        workdir = tmp_path / "run"
        tiny.launch(*words[0], f"--workdir={workdir}", *TWO_STEPS, *extra, report=False)

    config, summary = from_json((workdir / "config.json").read_text()), read_summary(workdir)
    assert tiny.status_of(workdir)["state"] == "done"
    assert all(math.isfinite(value) for value in summary.values())
    rows = read_jsonl(workdir / "metrics.jsonl")
    for stage in config.stages:
        section = config[stage.removesuffix("_common")]
        total = section.iterations if stage in ITERATED else section.steps
        assert 2 <= total <= 6
        assert summary[f"{stage}.steps"] == tiny.last_step(workdir, stage) == total
        steps = [row for row in rows if row["stage"] == stage and "grad_norm" in row["metrics"]]
        assert [row["step"] for row in steps] == list(range(1, total + 1))
        assert all(0 < row["metrics"]["grad_norm"] < math.inf for row in steps)
    if config.data.path:  # each list, or pair, that is not held out demonstrates its best answer
        printed = capsys.readouterr().out
        train = int(printed.split(" for training")[0].split()[-1])
        assert 20 < train < 48
        assert f"{train} demonstrations packed into" in printed


def test_a_missing_utility_stops_a_run_before_anything_is_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.ROOT)
    (tmp_path / "mine.py").write_text("")
    name = f"{tmp_path / 'mine.py'}:Missing"
    words = ("--config=configs/quickstart.py", f"--config.reward.utility_by_type.closed.name={name}")
    for rest in ("--dry_run", f"--workdir={tmp_path / 'run'}"):
        assert f"config.reward.utility_by_type.closed.name: {name}" in tiny.refused(capsys, *words, rest)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_every_recipe_is_of_a_config() -> None:
    assert RECIPES.keys() | ELSEWHERE.keys() == {path.stem for path in CONFIGS}


@pytest.mark.parametrize(
    ("path", "words"),
    [(path, words) for path in CONFIGS for words in commands(path)[1:]],
    ids=lambda value: value.stem if isinstance(value, pathlib.Path) else value[0].split(":")[-1],
)
def test_the_other_commands_of_a_docstring_plan_a_run(
    path: pathlib.Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.ROOT)
    tiny.launch(*words, "--dry_run")
    assert "stage reward: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in ("mixed", "lists"))) for kind in FEEDBACK]
)
def test_every_kind_of_feedback_is_trained_on_and_held_against_the_best(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps: figures are those of chance, but each stands beside its own ``bayes``, which nothing beats by much."""
    monkeypatch.chdir(tiny.ROOT)
    workdir = tmp_path / "run"
    tiny.launch(f"--config=configs/feedback.py:{kind}", f"--workdir={workdir}", *TWO_STEPS, report=False)
    summary = {name.removeprefix("reward."): value for name, value in read_summary(workdir).items()}
    best = {name.removeprefix("bayes."): value for name, value in summary.items() if name.startswith("bayes.")}
    pairs, labels = {"pair_accuracy", "log_loss"}, {"label_accuracy", "label_log_loss", "label_brier"}
    ties = pairs | {"three_way_accuracy", "three_way_log_loss"}
    expected = {"lists": set(), "ties": ties, "labels": labels, "scores": {"score_rmse"}}
    expected["mixed"] = ties | labels | {"score_rmse"}
    assert best.keys() == expected.get(kind, pairs)
    for name, value in best.items():
        assert 0 < value < 1
        assert summary[name] < value + 0.15 if "accuracy" in name else summary[name] > value - 0.15, name
    assert ("gold_accuracy" in summary) == (kind != "lists")
    assert ("pair_accuracy" in summary) == (kind not in ("labels", "scores"))
    rows = [row["metrics"] for row in read_jsonl(workdir / "metrics.jsonl")]
    steps = [row for row in rows if "grad_norm" in row]
    assert steps
    assert all(("pair_accuracy" in row) == ("pair_accuracy" in summary) for row in steps)
    rows = read_jsonl(workdir / "rewards" / "reward.jsonl")
    assert all(0 <= row["gold"] <= 1 for row in rows)
    assert {row["gold"] for row in rows if row["prompt_type"] == "closed"} == {0.0, 1.0}
