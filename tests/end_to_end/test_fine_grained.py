"""A fine-grained reward model and PPO on its rewards by the command line: resumed, shared by runs, refused."""

import json
import pathlib

import numpy as np
import pytest

from rlhf_jax.metrics import MetricWriter, read_jsonl, read_summary
from tests.end_to_end import tiny

pytestmark = pytest.mark.usefixtures("one_device")

STEPS = ("--config.segments.steps=4", "--config.segments.batch_size=16", "--config.segments.eval_every=2")
WORDS = (
    f"--config={tiny.ROOT / 'configs' / 'fine_grained.py'}",
    *tiny.PIPELINE,
    *STEPS,
    "--config.sft.steps=2",
    "--config.ppo.iterations=2",
    "--config.ppo.eval_every=1",
    "--config.checkpoint.every_iterations=1",
)
STAGES = ("sft", "segments", "ppo")
KINDS = ("plain", "repeated", "wrong_city", "short")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An undisturbed run of configs/fine_grained.py."""
    workdir = tmp_path_factory.mktemp("fine_grained") / "run"
    tiny.launch(*WORDS, f"--workdir={workdir}")
    return workdir


def test_a_run_leaves_figures_of_every_kind(whole: pathlib.Path) -> None:
    summary = read_summary(whole)
    for kind in KINDS:
        assert 0 < summary[f"segments.base_rate.{kind}"] < 1
        assert 0 <= summary[f"segments.auc.{kind}"] <= 1
        assert summary[f"segments.cross_entropy_base.{kind}"] <= np.log(2) + 1e-6
    assert summary["segments.steps"] == 4
    assert 0 <= summary["ppo.gold.open"] <= 1
    rows = read_jsonl(whole / "metrics.jsonl")
    trained = [row["metrics"] for row in rows if row["stage"] == "segments" and "grad_norm" in row["metrics"]]
    assert len(trained) == 4
    assert all(f"accuracy.{kind}" in row for row in trained for kind in KINDS)
    # Every answer is paid: weights times signs of a few phrases, not the 0 of a reward model that says nothing.
    paid = [row["metrics"]["reward.std"] for row in rows if row["stage"] == "ppo" and "reward.std" in row["metrics"]]
    assert min(paid) > 0
    assert (whole / "report" / "index.html").is_file()


def test_what_each_part_of_an_answer_was_paid_adds_up_to_its_reward(whole: pathlib.Path) -> None:
    """And the parts are one after the other, over the whole text."""
    rows = read_jsonl(whole / "samples" / "ppo" / "2.jsonl")
    assert len(rows) == 10
    for row in rows:
        parts = row["rewards"]
        assert sum(reward for _, _, reward in parts) == pytest.approx(row["proxy"], abs=1e-5)
        assert [start for start, _, _ in parts] == [0, *(end for _, end, _ in parts[:-1])]
        assert parts[-1][1] <= len(row["response"])
    assert any(len(row["rewards"]) > 1 for row in rows)


class Killed(BaseException):
    """Not an Exception: nothing in the program may catch it."""


@pytest.mark.slow
@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(
    whole: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, f"--workdir={tmp_path / 'run'}")
    write = MetricWriter.write
    for where in (("segments", 3), ("ppo", 2)):

        def dying(self: MetricWriter, stage: str, step: int, metrics: dict, where: tuple = where) -> None:
            write(self, stage, step, metrics)
            if (stage, step) == where:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(MetricWriter, "write", dying)
            with pytest.raises(Killed):
                tiny.launch(*words, report=False)
    tiny.launch(*words, report=False)
    tiny.assert_same_state(tmp_path / "run", whole, STAGES)
    assert tiny.rows_of(tmp_path / "run") == tiny.rows_of(whole)


@pytest.mark.slow
def test_two_models_of_other_runs_and_a_reward_model_are_followed_together(
    whole: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rewards add up: the mean reward of the SFT policy is that of either model alone, and of the reward model."""
    other = tmp_path / "other"
    shared = ("--config.data.task=local", "--config.data.max_response=32", *tiny.PIPELINE, *STEPS)
    config = f"--config={tiny.ROOT / 'configs' / 'ppo.py'}"
    parents = f"--config.parents.sft={whole}"
    tiny.launch(
        config,
        *shared,
        parents,
        f"--workdir={other}",
        "--config.stages=reward,segments",
        "--config.reward.steps=2",
        "--config.segments.kinds=plain:token,repeated:sentence",
        report=False,
    )
    found = {}
    for name, models, sequence in (
        ("first", f"{whole}", 0.0),
        ("second", f"{other}", 0.0),
        ("reward", "", 0.5),
        ("all", f"{whole},{other}", 0.5),
    ):
        words = [f"--config.ppo.dense.models={models}", f"--config.ppo.dense.sequence={sequence}"]
        words += ["--config.ppo.dense.weights=plain:0.25"] if models else []
        words += [f"--config.parents.reward={other}"] if sequence else []
        run = tmp_path / name
        tiny.launch(config, *shared, parents, *words, "--config.ppo.iterations=1", f"--workdir={run}", report=False)
        found[name] = read_summary(run)["ppo.reward.mean.before"]
    assert found["reward"] != 0  # without fine-grained models this is the reward model's own reward
    together = found["first"] + found["second"] + 0.5 * found["reward"]
    assert found["all"] == pytest.approx(together, abs=1e-4)

    bad = (config, *shared, parents, f"--workdir={tmp_path / 'bad'}", "--config.ppo.dense.sequence=0")
    models = f"--config.ppo.dense.models={whole}"
    line = tiny.refused(capsys, *bad, models, "--config.ppo.dense.weights=plane:1")
    assert "config.ppo.dense.weights: no model judges 'plane'; did you mean plain?" in line
    assert "no checkpoints in" in tiny.refused(capsys, *bad, f"--config.ppo.dense.models={tmp_path / 'first'}")


def test_kinds_that_the_data_do_not_mark_are_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*WORDS, f"--workdir={tmp_path / 'run'}", "--config.stages=segments", "--config.segments.init=scratch")
    line = tiny.refused(capsys, *words, "--config.segments.kinds=repeatd:sentence")
    assert "config.segments.kinds: repeatd:sentence has no good or no defective part to learn from" in line
    assert "did you mean repeated?" in line


def test_spans_of_a_file_train_a_model_by_bytes(tmp_path: pathlib.Path) -> None:
    """Not the embedded world: a lists file with spans, byte tokens, sentences and tokens judged."""
    rows = [
        {
            "prompt": f"What is {a} plus {b}?",
            "responses": [
                {"text": f"It is {a + b}. Surely.", "rank": 0},
                {
                    "text": f"It is {a + b + 1}. Surely.",
                    "rank": 1,
                    "spans": [{"start": 6, "end": 6 + len(str(a + b + 1)), "label": 0.0, "kind": "sum"}],
                },
            ],
        }
        for a in range(6)
        for b in range(8)
    ]
    data = tmp_path / "marked.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny.launch(
        f"--config={tiny.ROOT / 'configs' / 'lists_file.py'}",
        f"--config.data.path={data}",
        *tiny.PIPELINE,
        *tiny.FILE,
        *STEPS,
        "--config.data.max_response=32",
        "--config.tokenizer.kind=byte",
        "--config.stages=segments",
        "--config.segments.init=scratch",
        "--config.segments.kinds=sum:sentence",
        f"--workdir={tmp_path / 'run'}",
        report=False,
    )
    summary = read_summary(tmp_path / "run")
    assert summary["segments.base_rate.sum"] == 0.25  # one sentence of two, in one response of two
    assert summary["segments.truncated.responses"] == 0
