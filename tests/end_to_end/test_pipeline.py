"""The quickstart in a few steps: what it leaves, that it repeats itself, and how it says no."""

import json
import pathlib
import re
import shutil
import subprocess
from collections import Counter
from typing import NoReturn

import jax
import numpy as np
import pytest

from rlhf_jax.config import from_json
from rlhf_jax.metrics import read_json, read_jsonl, read_summary
from tests.end_to_end import tiny
from tests.end_to_end.conftest import Run

STAGES = ("sft", "reward", "reward_common", "ppo")
REWARD = (
    "loss",
    "pair_accuracy",
    "pair_accuracy.open",
    "pair_accuracy.closed",
    "w1_open_closed",
    "w1.closed.open",
    "ks.closed.open",
    "collapse_index",
    "r_star_distance.open",
    "r_star_distance.closed",
)
KINDS = ("open", "closed")
VARIED = ("unique", "distinct_2")
CUT = ("truncated.prompts", "truncated.responses")
# Of the last evaluation of held-out lists alone.
LAST = (
    *("kendall_tau", "ndcg", "log_loss", "brier", "ece", "temperature", "log_loss_calibrated", "ece_calibrated"),
    *("length_correlation", *(f"accuracy_at_distance.{distance}" for distance in range(1, 8))),
)
# As docs/run_directory.md has them.
DOCUMENTED = {
    "sft": {"loss", "gold.open", "gold.closed", "length", *VARIED, "steps", *CUT},
    "reward": {*REWARD, *(f"train.{name}" for name in REWARD), *LAST, "steps", *CUT},
    "reward_common": {*REWARD, *(f"train.{name}" for name in REWARD), *LAST, "steps", *CUT},
    "ppo": {
        "gold.open",
        "gold.closed",
        "reward.mean",
        "reward.mean.before",
        "reward.std",
        "score.mean",
        "score.std",
        "kl",
        "kl.k2",
        "kl.k3",
        "divergence",
        "length",
        "eos_fraction",
        "entropy",
        "explained_variance",
        "value.rmse",
        *VARIED,
        "steps",
    },
}


def _no_step(*args: object, **settings: object) -> NoReturn:
    raise AssertionError("a stage was run")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_jax.run.make_task", _no_step)


# ------------------------------------------------------------------------------ what it leaves


def test_the_run_directory_holds_what_is_documented(quickstart: Run) -> None:
    here = quickstart.workdir
    expected = {"config.json", "env.json", "metrics.jsonl", "STATUS.json", "summary.json", "report", ".owner"}
    expected |= {"tb", "samples", "checkpoints", "tokenizer", "rewards", "optimum"}
    assert {path.name for path in here.iterdir()} == expected
    for folder in ("tb", "checkpoints"):
        assert {path.name for path in (here / folder).iterdir()} == set(STAGES)
    assert all(any((here / "tb" / stage).glob("events.out.tfevents.*")) for stage in STAGES)
    assert [tiny.last_step(here, stage) for stage in STAGES] == [6, 6, 6, 4]
    assert {path.name for path in (here / "samples" / "ppo").iterdir()} == {"3.jsonl", "4.jsonl"}
    assert {path.name for path in (here / "rewards").iterdir()} == {"reward.jsonl", "reward_common.jsonl"}
    status = tiny.status_of(here)
    assert (status["state"], status["exit_code"]) == ("done", 0)
    assert from_json((here / "config.json").read_text()).stages == STAGES
    assert "<html" in (here / "report" / "index.html").read_text()
    assert f"report: {here / 'report' / 'index.html'}" in quickstart.printed


def test_the_summary_has_the_documented_names_and_is_the_last_held_out_row(quickstart: Run) -> None:
    summary = read_summary(quickstart.workdir)
    assert summary.keys() == {f"{stage}.{name}" for stage, names in DOCUMENTED.items() for name in names}
    shares = [name for name in summary if ".gold." in name or ".pair_accuracy" in name or ".w1_" in name]
    assert all(0 <= summary[name] <= 1 for name in shares)
    last = {row["stage"]: row["metrics"] for row in tiny.rows_of(quickstart.workdir)}
    for stage in STAGES:
        found = {name.removeprefix("validation."): value for name, value in last[stage].items()}
        assert {f"{stage}.{name}": value for name, value in found.items()} == {
            name: value for name, value in summary.items() if name.startswith(f"{stage}.") and name != f"{stage}.steps"
        }


def test_each_stage_says_when_its_first_step_was_done_and_what_came_before(quickstart: Run) -> None:
    """The parts are all of the time, but for what rounding takes; the first stage alone has imports and data."""
    told = re.findall(r"^(\w+): first step after ([\d.]+) s \((.+)\)$", quickstart.printed, re.MULTILINE)
    assert [stage for stage, *_ in told] == list(STAGES)
    for stage, seconds, words in told:
        parts = {part: float(spent) for part, spent in re.findall(r"([a-z ]+) ([\d.]+)(?:, |$)", words)}
        assert list(parts) == ["imports", "data"] * (stage == "sft") + ["state", "first step"]
        assert sum(parts.values()) == pytest.approx(float(seconds), abs=0.05 * (1 + len(parts)))
        assert parts["first step"] > 0  # it compiles


def test_every_step_and_every_evaluation_has_one_row(quickstart: Run) -> None:
    rows = tiny.rows_of(quickstart.workdir)
    assert list(dict.fromkeys(row["stage"] for row in rows)) == list(STAGES)
    for stage, steps in zip(STAGES, (6, 6, 6, 4), strict=True):
        held_out = [all(name.startswith(("validation.", "train.")) for name in row["metrics"]) for row in rows]
        mine = [(row["step"], out) for row, out in zip(rows, held_out, strict=True) if row["stage"] == stage]
        assert mine == sorted([(step, False) for step in range(1, steps + 1)] + [(3, True), (steps, True)])


def test_samples_show_gold_and_proxy_and_what_the_policy_said_before(quickstart: Run) -> None:
    last = read_jsonl(quickstart.workdir / "samples" / "ppo" / "4.jsonl")
    assert len(last) == 10
    assert {row["prompt_type"] for row in last} == {"open", "closed"}
    for row in last:
        assert 0 <= row["gold"] <= 1
        assert 0 < row["proxy"] < 1
        assert row["proxy"] != round(row["proxy"])
        assert isinstance(row["before"], str)
    earlier = read_jsonl(quickstart.workdir / "samples" / "ppo" / "3.jsonl")
    assert [row["prompt"] for row in earlier] == [row["prompt"] for row in last]  # to be read side by side
    held_out = {record.prompt for record in tiny.small_world("classic", "broken", 8).prompts_validation}
    for path in (quickstart.workdir / "samples").rglob("*.jsonl"):
        assert {row["prompt"] for row in read_jsonl(path)} <= held_out


def test_rewards_of_every_evaluation_are_kept_held_out_and_trained_on(quickstart: Run) -> None:
    """32 held-out lists of 8 and 6 training lists, at step 3 and at step 6; the training lists are the first ones."""
    rows = read_jsonl(quickstart.workdir / "rewards" / "reward.jsonl")
    assert Counter((row["step"], row["split"]) for row in rows) == {
        (step, split): 8 * lists for step in (3, 6) for split, lists in (("validation", 32), ("train", 6))
    }
    train = [row for row in rows if row["split"] == "train" and row["step"] == 6]
    assert Counter(row["prompt_type"] for row in train) == {"open": 24, "closed": 24}
    first = {
        kind: next(r for r in tiny.small_world("classic", "broken", 8).lists if r.prompt_type == kind) for kind in KINDS
    }
    for kind, record in first.items():
        mine = next(row["list"] for row in train if row["prompt_type"] == kind)
        gold = sorted(row["gold"] for row in train if row["list"] == mine)
        assert gold == sorted(response.score for response in record.responses)


def test_the_optimum_is_recorded_with_how_far_apart_the_types_should_lie(quickstart: Run) -> None:
    """The quickstart's utilities differ by type, in the reward stage; both stages are held against that."""
    found = {
        stage: read_json(quickstart.workdir / "optimum" / f"{stage}.json") for stage in ("reward", "reward_common")
    }
    own, common = found["reward"], found["reward_common"]
    assert own["open"]["apart"]["closed"] == own["closed"]["apart"]["open"] == common["open"]["apart"]["closed"]
    # Both in best-first order over 8 responses: W1 is then the mean distance response by response.
    r = {kind: np.array(own[kind]["r"]) for kind in KINDS}
    assert own["open"]["apart"]["closed"] == pytest.approx(np.abs(r["open"] - r["closed"]).mean())
    assert own["open"]["apart"]["closed"] > 0.05
    assert common["open"]["r"] == common["closed"]["r"]
    assert common["closed"]["wanted"] == own["closed"]["utility"] != common["closed"]["utility"]
    for row in read_jsonl(quickstart.workdir / "rewards" / "reward.jsonl"):
        assert row["best"] == own[row["prompt_type"]]["r"][row["rank"]]


# ------------------------------------------------------------------------------ it repeats itself


def test_its_own_config_runs_it_again_bit_for_bit(quickstart: Run, tmp_path: pathlib.Path) -> None:
    again = tmp_path / "again"
    tiny.launch(f"--config={quickstart.workdir / 'config.json'}", f"--workdir={again}", report=False)
    tiny.assert_same_state(quickstart.workdir, again, STAGES)
    assert tiny.rows_of(again) == tiny.rows_of(quickstart.workdir)
    assert (again / "summary.json").read_bytes() == (quickstart.workdir / "summary.json").read_bytes()
    assert (again / "config.json").read_bytes() == (quickstart.workdir / "config.json").read_bytes()


def test_another_seed_is_another_run(quickstart: Run, tmp_path: pathlib.Path) -> None:
    """Or the comparison above would hold whatever the run did."""
    other = tmp_path / "other"
    tiny.launch(*quickstart.command, f"--workdir={other}", "--config.seed=1", "--config.stages=sft", report=False)
    one, two = tiny.state_of(quickstart.workdir, "sft"), tiny.state_of(other, "sft")
    name = "['params']['embedding']"
    assert not np.array_equal(one[name], two[name])


@pytest.mark.usefixtures("no_training")
def test_the_same_command_on_a_finished_run_only_reports(
    quickstart: Run, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(quickstart.workdir, tmp_path / "copy")
    (copy / "report" / "index.html").unlink()
    before = {name: (copy / name).read_bytes() for name in ("metrics.jsonl", "summary.json", "config.json")}
    tiny.launch(*quickstart.command, f"--workdir={copy}")
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert (copy / "report" / "index.html").is_file()
    assert tiny.status_of(copy)["state"] == "done"
    printed = capsys.readouterr().out
    assert printed.startswith(f"{copy}: this run is done; nothing is left to do but its report\n")
    assert "nothing is left to do" not in quickstart.printed
    for name, value in read_summary(copy).items():
        assert f"{name:32} {value:.4f}\n" in printed


def test_what_does_not_touch_the_result_may_change_in_a_finished_run(quickstart: Run, tmp_path: pathlib.Path) -> None:
    copy = shutil.copytree(quickstart.workdir, tmp_path / "copy")
    tiny.launch(*quickstart.command, f"--workdir={copy}", "--config.log.samples=3", report=False)
    assert from_json((copy / "config.json").read_text()).log.samples == 3


# ------------------------------------------------------------------------------ many devices


def _agree(workdir: pathlib.Path, quickstart: Run, names: tuple[str, ...]) -> None:
    found, expected = read_summary(workdir), read_summary(quickstart.workdir)
    for name in names:
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    ours, theirs = (tiny.state_of(run, "sft") for run in (workdir, quickstart.workdir))
    np.testing.assert_allclose(ours["['params']['embedding']"], theirs["['params']['embedding']"], atol=2e-4)


@pytest.mark.slow
def test_the_pipeline_runs_under_pmap(quickstart: Run, tmp_path: pathlib.Path) -> None:
    """PPO samples: one token drawn otherwise and its figures part. What comes before it agrees with the mesh."""
    assert jax.device_count() == 8
    words = ("--config.stages=sft,reward,ppo", "--config.parallel.mode=pmap")
    tiny.launch(*quickstart.command, f"--workdir={tmp_path}", *words, report=False)
    _agree(tmp_path, quickstart, ("sft.loss", "reward.loss", "reward.w1_open_closed"))
    assert read_summary(tmp_path)["ppo.steps"] == 4


@pytest.mark.slow
def test_it_runs_with_parameters_split_over_devices(quickstart: Run, tmp_path: pathlib.Path) -> None:
    """The reward model comes from a run that did not split them."""
    words = ("--config.stages=sft,ppo", "--config.parallel.fsdp=2", f"--config.parents.reward={quickstart.workdir}")
    tiny.launch(*quickstart.command, f"--workdir={tmp_path}", *words, report=False)
    _agree(tmp_path, quickstart, ("sft.loss",))
    assert read_summary(tmp_path)["ppo.steps"] == 4


# ------------------------------------------------------------------------------ how it says no


@pytest.mark.usefixtures("no_training")
def test_another_configuration_in_the_same_directory_is_refused(
    quickstart: Run, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(quickstart.workdir, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    line = tiny.refused(capsys, *quickstart.command, f"--workdir={copy}", "--config.reward.utility.gamma=0.75")
    assert line.startswith(f"rlhf-jax: error: {copy / 'config.json'}: of another run (old -> new): ")
    assert "config.reward.utility.gamma: 0.5 -> 0.75;" in line
    assert line.endswith("with --config.checkpoint.accept=config\n")
    assert {path: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("--config.sft.stepz=3", "config.sft.stepz: no such key; did you mean config.sft.steps?"),
        ("--config.sft.steps=many", "config.sft.steps: 'many' is not an integer"),
        ("--config.ppo.kl.coefficient=nan", "config.ppo.kl.coefficient: "),
        ("--config.model.kv_heads=3", "config.model.kv_heads: 3 does not divide "),
        ("--config.parents.sft=nowhere", "config.parents.sft: "),
        ("leftover", "leftover: not an option"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_bad_override_leaves_no_run_directory(
    word: str, start: str, quickstart: Run, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = tiny.refused(capsys, *quickstart.command, f"--workdir={tmp_path / 'run'}", word)
    assert line.startswith(f"rlhf-jax: error: {start}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "rows", "instead"),
    [
        ("sft.batch_size", 12, 12, "8 or 16"),
        ("reward.batch_size", 9, 9, "8 or 16"),
        ("ppo.prompts_per_iteration", 12, 12, "16 prompts"),
        ("ppo.minibatches", 4, 4, "2 minibatches"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_batch_that_eight_devices_cannot_share_is_told_before_any_stage_is_trained(
    key: str,
    value: int,
    rows: int,
    instead: str,
    quickstart: Run,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = tiny.refused(capsys, *quickstart.command, f"--workdir={tmp_path / 'run'}", f"--config.{key}={value}")
    assert line == f"rlhf-jax: error: config.{key}: {rows} rows cannot be shared evenly by 8 devices; {instead} would\n"
    status = tiny.status_of(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("failed", 2)


def test_a_run_that_came_to_nothing_is_corrected_in_its_place(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command mended, tokenizer and all; nothing of the failed attempt is left in the way."""
    workdir = tmp_path / "run"
    command = (f"--config={tiny.ROOT / 'configs' / 'lists_file.py'}", f"--workdir={workdir}", *tiny.SIZE, *tiny.FILE)
    data = tiny.lists_file(tmp_path / "lists.jsonl")
    command += (f"--config.data.path={data}", "--config.stages=sft", "--config.sft.steps=2")
    good = data.read_text()
    data.write_text(good + "{}\n")
    assert f"{data}:49: " in tiny.refused(capsys, *command, "--config.tokenizer.kind=byte")
    data.write_text(good)
    tiny.refused(capsys, *command, "--config.tokenizer.kind=byte", "--config.sft.batch_size=12")
    tiny.launch(*command, "--config.tokenizer.vocab_size=300", report=False)
    config = from_json((workdir / "config.json").read_text())
    assert (config.tokenizer.kind, config.sft.batch_size) == ("bpe", 8)
    assert tiny.state_of(workdir, "sft")["['params']['embedding']"].shape[0] == 300


@pytest.mark.parametrize("dry_run", [(), ("--dry_run",)], ids=["train", "dry_run"])
@pytest.mark.usefixtures("no_training")
def test_a_bad_row_is_named_by_file_line_and_field(
    dry_run: tuple[str, ...], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.lists_file(tmp_path / "lists.jsonl")
    rows = data.read_text().splitlines()
    rows[6] = rows[6].replace('"text": "Ask me another."', '"text": 7')
    data.write_text("\n".join(rows) + "\n")
    command = (
        f"--config={tiny.ROOT / 'configs' / 'lists_file.py'}",
        f"--config.data.path={data}",
        *tiny.SIZE,
        *tiny.FILE,
    )
    line = tiny.refused(capsys, *command, f"--workdir={tmp_path / 'run'}", *dry_run)
    assert line == f"rlhf-jax: error: {data}:7: responses[3].text: expected a string, found int\n"


# ------------------------------------------------------------------------------ --dry_run


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    quickstart: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.launch(*quickstart.command, "--workdir=run", "--dry_run")
    printed = capsys.readouterr().out
    sizes = {name: leaf.size for name, leaf in tiny.state_of(quickstart.workdir, "sft").items()}
    decoder = sum(size for name, size in sizes.items() if name.startswith("['params']"))
    assert f"model: {decoder:,} parameters" in printed
    for plan in (
        "stage sft: 6 steps of 8 packed rows",
        "stage reward: 6 steps of 8 lists of 8",
        "stage reward_common: 6 steps of 8 lists of 8",
        "stage ppo: 4 iterations of 16 episodes, 4 updates each",
    ):
        assert plan in printed
    assert list(tmp_path.iterdir()) == []


def test_a_state_given_up_to_the_next_step_is_not_read_again(
    quickstart: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerators donate the state; here it is forced, and the run must end with the same bits."""
    monkeypatch.setattr("rlhf_jax.build.programs.donated", lambda platform: (0,))
    words = ("--config.stages=sft,ppo", f"--config.parents.reward={quickstart.workdir}")
    tiny.launch(*quickstart.command, f"--workdir={tmp_path / 'run'}", *words, report=False)
    tiny.assert_same_state(quickstart.workdir, tmp_path / "run", ("sft", "ppo"))


def test_the_environment_names_the_commit_of_the_checkout(quickstart: Run) -> None:
    """As git says it; a checkout with changes says so."""
    found = json.loads((quickstart.workdir / "env.json").read_text())["commit"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tiny.ROOT, capture_output=True, text=True)
    assert found.removesuffix("-dirty") == head.stdout.strip()  # both empty where the tests are no checkout
