"""``rlhf-jax sweep`` as words: what is begun, gone on with and shown, and what is refused before anything runs."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from rlhf_jax.commands.sweep import OPTIONS
from rlhf_jax.errors import INTERRUPTED, USER_ERROR, DiskError
from rlhf_jax.flags import Launch
from rlhf_jax.main import main
from rlhf_jax.metrics import read_json
from rlhf_jax.owner import Owned, Owner
from rlhf_jax.run import _fail
from rlhf_jax.sweeps import worker
from rlhf_jax.sweeps.folder import read_sweep, read_trials
from rlhf_jax.sweeps.queue import Queue
from tests.sweeps.standin import end

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'reward_listwise.py'}"
BEST = "--objective=reward.pair_accuracy:max"
GAMMA = "--sweep.reward.utility.gamma=0.5,1.0"


def worth(launch: Launch) -> float:
    """What the stand-in finds: more with a larger gamma, and a little by the seed."""
    return launch.config.reward.utility.gamma / 4 + launch.config.seed / 100


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders of all trials that were run, by a stand-in that takes no time."""
    found: list[str] = []

    def go_on(launch: Launch, judge: Callable[..., bool], shared: Any) -> bool:
        found.append(pathlib.Path(launch.workdir).name)
        print("what the run says")
        if launch.config.reward.utility.gamma == 3.0:
            raise ValueError("no memory\nfor this")
        end(pathlib.Path(launch.workdir), pair_accuracy=worth(launch))
        return False

    monkeypatch.setattr(worker, "go_on", go_on)
    return found


def test_a_sweep_from_its_command_to_its_table(
    tmp_path: pathlib.Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", CONFIG, f"--workdir={tmp_path}", BEST, GAMMA, "--seeds=0,1", "--config.reward.steps=7"]
    main(command)
    assert runs == ["0000", "0001", "0002", "0003"]
    said = capsys.readouterr().out
    assert "trial 2: reward.utility.gamma=1.0 seed 0\ntrial 2: reward.pair_accuracy 0.25 (0 s)\n" in said
    assert "what the run says" not in said
    assert (tmp_path / "trials" / "0002" / "output.log").read_text() == "what the run says\n"
    # By hand: values 0.25 and 0.26, s / sqrt 2 = 0.005, times t = 12.7062.
    assert "0.255 ± 0.064" in said
    assert said.index("reward.utility.gamma=1.0 │") < said.index("reward.utility.gamma=0.5 │")
    assert "4 trials: 4 done" in said
    assert read_json(tmp_path / "results.json")["points"][0]["mean"] == {"reward.pair_accuracy": 0.255}
    assert read_sweep(tmp_path).config["reward"]["steps"] == 7

    main(command)  # goes on, with nothing to do
    main(["sweep", str(tmp_path)])
    assert len(runs) == 4
    capsys.readouterr()
    main(["sweep", str(tmp_path), "--show"])
    assert "0.255 ± 0.064" in capsys.readouterr().out
    main(["sweep", str(tmp_path), "--show", "--objective=reward.pair_accuracy:min"])
    said = capsys.readouterr().out
    assert said.index("reward.utility.gamma=0.5 │") < said.index("reward.utility.gamma=1.0 │")
    assert read_sweep(tmp_path).objectives[0].direction == "max"


def test_a_dry_run_lists_the_points_and_makes_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        ["sweep", CONFIG, f"--space={ROOT / 'configs' / 'spaces' / 'utilities.py'}", BEST, "--seeds=0,1,2", "--dry_run"]
    )
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "8 points x 3 seeds: 24 trials"
    assert said[5] == "   4  reward.utility.name=negative_power reward.utility.gamma=1.0"
    assert len(said) == 9


def test_a_trial_that_fails_is_recorded_with_one_line_and_the_others_go_on(
    tmp_path: pathlib.Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sweep", CONFIG, f"--workdir={tmp_path}", BEST, "--sweep.reward.utility.gamma=3.0,0.5,1.0,2.0"])
    trials = read_trials(tmp_path)
    assert [trial.state for trial in trials] == ["failed", "done", "done", "done"]
    assert trials[0].reason == "ValueError: no memory"
    said = capsys.readouterr().out
    assert "trial 0: failed, ValueError: no memory (0 s)" in said
    assert "3 done, 1 failed" in said
    assert "Traceback" in (tmp_path / "trials" / "0000" / "output.log").read_text()


def test_a_full_disk_ends_the_sweep_and_is_no_fault_of_the_trial(
    tmp_path: pathlib.Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(launch: Launch, judge: Callable[..., bool], shared: Any) -> bool:
        error = DiskError("runs/a: No space left on device", USER_ERROR)
        _fail(pathlib.Path(launch.workdir), error)
        raise error

    command = ["sweep", CONFIG, f"--workdir={tmp_path}", BEST, GAMMA]
    with monkeypatch.context() as patch:
        patch.setattr(worker, "go_on", full)
        with pytest.raises(SystemExit) as told:
            main(command)
    assert told.value.code == 2
    assert capsys.readouterr().err == "rlhf-jax: error: runs/a: No space left on device\n"
    (trial,) = read_trials(tmp_path)
    assert (trial.state, trial.reason) == ("interrupted", "DiskError: runs/a: No space left on device")
    main(command)
    assert [trial.state for trial in read_trials(tmp_path)] == ["done", "done"]
    assert runs == ["0000", "0001"]


def test_a_trial_that_somebody_runs_by_hand_is_waited_for(
    tmp_path: pathlib.Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started between the claim and the run, or before: only when the directory is free it is gone on with."""
    go_on, asked = worker.go_on, []

    def first(launch: Launch, judge: Callable[..., bool], shared: Any) -> bool:
        asked.append(pathlib.Path(launch.workdir).name)
        monkeypatch.setattr(worker, "go_on", go_on)
        raise Owned("process 7 trains here")

    monkeypatch.setattr(worker, "POLL", 0.01)
    monkeypatch.setattr(worker, "go_on", first)
    main(["sweep", CONFIG, f"--workdir={tmp_path / 'between'}", BEST, GAMMA])
    assert asked == ["0000"]
    assert runs == ["0000", "0001"]

    (sweep := tmp_path / "before").mkdir()
    monkeypatch.setattr(worker, "go_on", first)
    main(["sweep", CONFIG, f"--workdir={sweep}", BEST, "--sweep.reward.utility.gamma=0.5"])
    folder = sweep / "trials" / "0000"
    (folder / "STATUS.json").unlink()
    with Owner(folder, lambda: None) as owner:
        owner.take()
        assert Queue(sweep, lease=60).take() is None
    taken = Queue(sweep, lease=60).take()
    assert taken is not None
    assert taken[0].number == 0


def test_a_signal_ends_the_worker_and_the_same_command_goes_on(
    tmp_path: pathlib.Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on = worker.go_on

    def stopped(launch: Launch, judge: Callable[..., bool], shared: Any) -> bool:
        end(pathlib.Path(launch.workdir), "interrupted", "SIGTERM")
        raise SystemExit(INTERRUPTED)

    command = ["sweep", CONFIG, f"--workdir={tmp_path}", BEST, GAMMA]
    monkeypatch.setattr(worker, "go_on", stopped)
    with pytest.raises(SystemExit) as told:
        main(command)
    assert told.value.code == INTERRUPTED
    (trial,) = read_trials(tmp_path)
    assert (trial.state, trial.reason) == ("interrupted", "SIGTERM")
    assert json.loads((trial.folder / "claims" / "1.json").read_text())["ended"] > 0
    monkeypatch.setattr(worker, "go_on", go_on)
    main(command)
    assert runs == ["0000", "0001"]
    assert "trial 0: reward.utility.gamma=0.5 seed 0 (goes on)" in capsys.readouterr().out


def test_a_sweep_may_get_more_points_and_another_sampler_is_another_sweep(
    tmp_path: pathlib.Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", CONFIG, f"--workdir={tmp_path}", BEST, "--sweep.reward.utility.gamma=log:0.1:1"]
    main([*words, "--sampler=random", "--points=2"])
    main([*words, "--sampler=random", "--points=3"])
    assert runs == ["0000", "0001", "0002"]
    with pytest.raises(SystemExit):
        main([*words, "--sampler=tpe", "--points=3"])
    assert "another sweep was begun here: --sampler: tpe, but the sweep has random" in capsys.readouterr().err


def test_tpe_learns_from_the_trials_of_the_folder(tmp_path: pathlib.Path, runs: list[str]) -> None:
    words = [CONFIG, BEST, "--sweep.reward.utility.gamma=log:0.1:2", "--sampler=tpe", "--points=12"]
    main(["sweep", *words, f"--workdir={tmp_path / 'a'}"])
    found = [trial.parameters for trial in read_trials(tmp_path / "a")]
    assert len(found) == 12
    # Killed and begun again after six points, it finds the same ones.
    main(["sweep", *words[:-1], "--points=6", f"--workdir={tmp_path / 'b'}"])
    main(["sweep", *words, f"--workdir={tmp_path / 'b'}"])
    assert [trial.parameters for trial in read_trials(tmp_path / "b")] == found


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "name a folder to go on with, or --config and --workdir to begin one"),
        ([CONFIG, BEST, GAMMA], "--workdir: missing"),
        ([CONFIG, "--workdir=w", GAMMA], "--objective: missing; name a figure"),
        ([CONFIG, "--workdir=w", GAMMA, "--objective=reward.loss"], "must be NAME:max or NAME:min"),
        (
            [CONFIG, "--workdir=w", GAMMA, "--objective=rewards.loss:min"],
            "no stage 'rewards' in config.stages; did you mean reward?",
        ),
        ([CONFIG, "--workdir=w", BEST], "nothing to sweep over"),
        ([CONFIG, "--workdir=w", BEST, "--sweep.reward.utility.gama=1"], "did you mean config.reward.utility.gamma?"),
        ([CONFIG, "--workdir=w", BEST, GAMMA, "--config.reward.stepz=1"], "did you mean config.reward.steps?"),
        ([CONFIG, "--workdir=w", BEST, GAMMA, "--seed=0,1"], "--seed=0,1: no such option; did you mean --seeds?"),
        ([CONFIG, "--workdir=w", BEST, GAMMA, "--seeds=0,0"], "a seed is there twice"),
        ([CONFIG, "--workdir=w", BEST, GAMMA, "--seeds=a"], "not a list of whole numbers"),
        ([CONFIG, "--workdir=w", BEST, "--sweep.seed=0,1"], "config.seed: seeds are a dimension of their own"),
        (
            [CONFIG, "--workdir=w", BEST, GAMMA, "--sampler=tpo"],
            "'tpo' is not one of grid, random, tpe; did you mean tpe?",
        ),
        ([CONFIG, "--workdir=w", BEST, GAMMA, "--sampler=tpe"], "--points: missing"),
        ([CONFIG, "--workdir=w", BEST, GAMMA, "--points=3"], "a grid has the points that it has"),
        ([CONFIG, "--workdir=w", BEST, GAMMA, "--workers=0"], "--workers: '0' is not a whole number from 1"),
        (
            [CONFIG, "--workdir=w", GAMMA, "--objective=reward.loss:min,reward.ece:min", "--pruner=median"],
            "--pruner: median needs one objective",
        ),
        (
            ["--config=CONFIG:power", "--workdir=w", BEST, "--sweep.reward.utility.gamma=0.5,1.5"],
            "the point reward.utility.gamma=1.5: config.reward.utility.gamma: 1.5 is not allowed, must be in (0, 1]",
        ),
        (
            [
                "--config=CONFIG:power",
                "--workdir=w",
                BEST,
                "--sweep.reward.utility.gamma=log:1:20",
                "--sampler=tpe",
                "--points=2",
            ],
            "is not allowed, must be in (0, 1] for power",
        ),
        (["w", "--show"], "w: no sweep there"),
        (["w", GAMMA], "--sweep.reward.utility.gamma: the sweep in w is what it was begun as"),
        (["w", "--seeds=0"], "--seeds: the sweep in w is what it was begun as"),
        (["w", "v"], "v: not an option"),
        (
            ["--config=CONFIG", "--workdir=w", GAMMA, "--objective=reward.los:min"],
            "--objective: reward.los: no figure of a run is called so; did you mean reward.loss?",
        ),
        (["--config=CONFIG", "--workdir=w", GAMMA, "--objective=reward.:min"], "reward.: no figure of a run"),
    ],
)
def test_what_cannot_be_swept_is_one_line_before_anything_is_made(
    words: list[str],
    error: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as told:
        main(["sweep", *(word.replace("--config=CONFIG", CONFIG) for word in words)])
    assert told.value.code == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["gold", "gold.essay", "train.pair_accuracy", "bayes.log_loss", "w1.a.b", "steps", "alarm.kl", "auc.kind"]
)
def test_figures_of_ones_own_prompts_are_known(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", CONFIG, GAMMA, f"--objective=reward.{name}:max", "--dry_run"])
    assert "2 trials" in capsys.readouterr().out


def test_a_figure_that_no_run_has_is_told_when_the_first_has_ended_and_nothing_is_lost(
    tmp_path: pathlib.Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", CONFIG, f"--workdir={tmp_path}", GAMMA]
    with pytest.raises(SystemExit) as told:
        main([*words, "--objective=reward.pair_accuracy.essay:max"])
    assert told.value.code == 2
    assert "reward.pair_accuracy.essay: no such figure" in capsys.readouterr().err
    main([*words, BEST])
    assert runs == ["0000", "0001"]


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "--help"])
    said = capsys.readouterr().out
    assert [option for option in OPTIONS if option not in said] == ["--help"]
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "rlhf-jax sweep --config=FILE --workdir=DIR" in capsys.readouterr().out
