"""What is wrong with the feedback of a run is told before anything is trained, and in a dry run."""

import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlhf_jax.build.data import load_data
from rlhf_jax.build.feedback import check_feedback
from rlhf_jax.config import default_config
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.world_feedback import Annotators, give_feedback
from rlhf_jax.errors import UserError
from tests.end_to_end import tiny

RANKED = Record("1", "p", (Response("a", 0), Response("b", 1)))
TIED = Record("2", "p", (Response("a", 0), Response("b", 0)))
LABELLED = Record("3", "p", (Response("a", label=1.0),), annotator="jo")
SCORED = Record("4", "p", (Response("a", score=2.0), Response("b", score=7.0)))
EDGES = Record("5", "p", (Response("a", 0), Response("b", 1)), edges=((0, 1),))
LOOSE = Record("6", "p", (Response("a", 0), Response("b", 0)), edges=())
GRADED = Record("8", "p", (Response("a", 0), Response("b", 1)), margin=2.0)
SPOKEN = Record("7", "p", (Response("a", critique="too long"),))


def settings(**values: Any) -> ConfigDict:
    config = default_config()
    for key, value in values.items():
        *groups, leaf = key.split("__")
        group = config
        for name in groups:
            group = group[name]
        group[leaf] = value
    return config


@pytest.mark.parametrize(
    ("records", "values"),
    [
        ([RANKED], {}),
        ([SPOKEN, EDGES], {}),
        ([TIED], {"reward__loss": "davidson"}),
        ([TIED, LABELLED], {}),
        ([SCORED], {"reward__weights__scores": 1.0, "reward__scores__high": 10.0}),
        (
            [SCORED],
            {"reward__weights__scores": 1.0, "reward__loss": "davidson"},
        ),  # unbounded: beyond 0..1 are rewards too
        ([SCORED], {"stages": ("sft",)}),
        ([RANKED, GRADED], {"reward__margin": 0.5}),
        ([LABELLED], {"reward__annotator_weights__jo": 0.5}),
    ],
)
def test_what_can_be_trained_on_is_allowed(records: list[Record], values: dict[str, Any]) -> None:
    check_feedback(settings(**values), records)


@pytest.mark.parametrize(
    ("records", "values", "says"),
    [
        (
            [SCORED],
            {},
            "config.reward.weights: the data hold scores, but nothing .* config.reward.weights.scores above 0",
        ),
        ([LABELLED], {"reward__weights__labels": 0.0}, "hold labels, but nothing .*reward.weights.labels above 0"),
        ([RANKED, SCORED], {"reward__weights__ranks": 0.0}, "hold ranks and scores, .*reward.weights.ranks above 0"),
        ([TIED], {}, "hold no feedback to train a reward model on but ties, which need config.reward.loss=davidson"),
        ([SPOKEN, LOOSE], {}, "hold no feedback to train a reward model on$"),
        ([SCORED], {"reward__weights__scores": 1.0}, "config.reward.scores.high: 1.0, but scores go from 2 to 7 and"),
        (
            [SCORED],
            {"reward__weights__scores": 1.0, "reward__scores__low": 3.0, "reward__scores__high": 9.0},
            "config.reward.scores.low: 3.0, but scores go from 2 to 7",
        ),
        ([RANKED], {"reward__margin": 0.5}, "config.reward.margin: 0.5 would go unused: the data hold no margins"),
        ([RANKED], {"reward__weights__scores": 0.5}, "weights.scores: 0.5 would go unused: the data hold no scores"),
        ([LABELLED], {"reward__annotator_weights__joe": 0.5}, "annotator_weights.joe: nobody .* did you mean jo\\?"),
    ],
)
@pytest.mark.parametrize("stage", ["reward", "reward_common"])
def test_what_cannot_is_one_line(stage: str, records: list[Record], values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_feedback(settings(stages=(stage,), **values), records)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ in a run


def labels_file(path: pathlib.Path, rows: int) -> pathlib.Path:
    return tiny.write_jsonl(path, ({"prompt": f"{i}?", "completion": "a", "label": i % 3 > 0} for i in range(rows)))


@pytest.mark.parametrize("last", ["--dry_run", "--workdir"])
def test_it_is_told_before_sft_is_trained(
    last: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.ROOT)
    words = ("--config=configs/quickstart.py", *tiny.SIZE, "--config.data.feedback=labels")
    words = (*words, "--config.reward.weights.labels=0")
    line = tiny.refused(capsys, *words, f"--workdir={tmp_path / 'run'}" if last == "--workdir" else last)
    assert "config.reward.weights: the data hold labels" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_the_head_of_a_file_lacks_may_come_later(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run reads 200 rows; it refuses a file of fewer, but not one that goes on."""
    monkeypatch.chdir(tiny.ROOT)
    path = labels_file(tmp_path / "labels.jsonl", 300)
    words = (
        "--config=configs/lists_file.py", "--config.data.format=auto",
        *tiny.SIZE, *tiny.FILE, f"--config.data.path={path}",
        "--config.reward.weights.labels=0", "--dry_run",
    )  # fmt: skip
    tiny.launch(*words)
    assert "stage reward" in capsys.readouterr().out
    labels_file(path, 150)
    assert "config.reward.weights: the data hold labels" in tiny.refused(capsys, *words)


def test_the_world_hands_its_annotators_and_their_feedback_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else changes: the same prompts, the same truth, lists as they were."""
    short = tiny.load(settings())
    splits = {"lists": short.lists, "lists_validation": short.lists_validation, "sft": short.lists[:8]}
    monkeypatch.setattr("rlhf_jax.build.data.load_world", lambda form, name, list_size: splits.get(name, short.prompts))
    plain, told = load_data(settings()), load_data(settings(data__feedback="labels", data__noise=0.3, data__judges=2))
    assert plain.lists == short.lists
    assert plain.annotators is None
    who = Annotators("labels", 0.3, 2)
    assert told.annotators == who
    assert told.lists == [give_feedback(record, who) for record in short.lists]
    assert told.lists_validation == [give_feedback(record, who) for record in short.lists_validation]
    assert {record.annotator for record in told.lists} == {"careful", "hasty"}
    assert not {record.prompt for record in told.lists} & {record.prompt for record in told.lists_validation}
    assert told.gold is plain.gold
