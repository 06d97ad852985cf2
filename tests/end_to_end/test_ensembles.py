"""A reward ensemble by the command line: trained, followed by PPO of another run, and chosen by in best-of-n."""

import json
import pathlib

import numpy as np
import pytest

from rlhf_jax.main import main
from rlhf_jax.metrics import read_metrics, read_summary
from tests.end_to_end import tiny

pytestmark = pytest.mark.usefixtures("one_device")

QUICK = (
    *tiny.SIZE,
    "--config.sft.steps=2",
    "--config.reward.steps=3",
    "--config.ppo.iterations=2",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """SFT and three whole reward models on resampled lists."""
    workdir = tmp_path_factory.mktemp("ensemble") / "parent"
    tiny.launch(
        *QUICK,
        f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}",
        f"--workdir={workdir}",
        "--config.stages=sft,reward",
        "--config.reward.ensemble.members=3",
        "--config.reward.ensemble.bootstrap=True",
        report=False,
    )
    return workdir


def test_the_members_differ_and_their_spread_is_measured(parent: pathlib.Path) -> None:
    kernels = tiny.state_of(parent, "reward")
    head = next(value for name, value in kernels.items() if "params" in name and "head" in name)
    assert head.shape == (3, 16)
    assert len({row.tobytes() for row in head}) == 3
    summary = read_summary(parent)
    assert summary["reward.spread"] > 0
    assert 0 <= summary["reward.spread_auroc"] <= 1
    trained = [row["metrics"] for row in read_metrics(parent) if row["stage"] == "reward" and "loss" in row["metrics"]]
    assert all(row["spread"] > 0 for row in trained)


def test_ppo_follows_the_ensemble_of_another_run(parent: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = {}
    for how in ("mean", "worst"):
        tiny.launch(
            *QUICK,
            f"--config={tiny.ROOT / 'configs' / 'ppo.py'}",
            f"--workdir={tmp_path / how}",
            f"--config.parents.sft={parent}",
            f"--config.parents.reward={parent}",
            f"--config.ppo.aggregate={how}",
            report=False,
        )
        found[how] = [row["metrics"] for row in read_metrics(tmp_path / how) if "reward.spread" in row["metrics"]]
    # The first rollout is the same; what it is scored by is not.
    mean, worst = found["mean"][0], found["worst"][0]
    assert mean["reward.spread"] == pytest.approx(worst["reward.spread"])
    assert worst["reward.mean"] < mean["reward.mean"] - 0.5 * mean["reward.spread"]


def test_an_aggregate_needs_an_ensemble(
    parent: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    config = json.loads((parent / "config.json").read_text())
    config["reward"]["ensemble"] = {"members": 1, "kind": "models", "bootstrap": False}
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    line = tiny.refused(
        capsys,
        f"--config={tiny.ROOT / 'configs' / 'ppo.py'}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.parents.sft={parent}",
        f"--config.parents.reward={other}",
        "--config.ppo.aggregate=worst",
    )
    assert "config.ppo.aggregate: worst would go unused: the reward model is no ensemble" in line


def best_of_n(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    """Its JSON, on the slice of the world that these tests read."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.best_of_n.load_data", tiny.load)
        main(["best-of-n", *words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_best_of_n_from_the_command_line(parent: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (str(parent), "--aggregate=lower", "--penalty=2", "--prompts=4", "--seed=3")
    found = best_of_n(capsys, *words, "--n=6")
    assert [row["n"] for row in found["by_n"]] == [1, 2, 4, 6]
    for one in found["prompts"]:
        members, scores = np.array(one["members"]), np.array(one["scores"])
        assert members.shape == (6, 3)
        np.testing.assert_allclose(scores, members.mean(axis=1) - 2 * members.std(axis=1), atol=1e-5)
        assert one["response"] == one["responses"][int(np.argmax(scores))]
        assert len(one["gold"]) == 6
    last = found["by_n"][-1]
    assert last["proxy"] == pytest.approx(np.mean([max(one["scores"]) for one in found["prompts"]]))
    assert found["by_n"][0]["gold"] == pytest.approx(np.mean([one["gold"] for one in found["prompts"]]))
    assert last["kl_bound"] == pytest.approx(np.log(6) - 5 / 6)
    assert found["by_n"][0]["kl"] == pytest.approx(0.0, abs=1e-12)
    assert 0 < last["kl"] <= last["kl_bound"]
    assert found == best_of_n(capsys, *words, "--n=6")
    # The first answers of a larger n are those of a smaller one.
    fewer = best_of_n(capsys, *words, "--n=2")
    for few, many in zip(fewer["prompts"], found["prompts"], strict=True):
        assert few["responses"] == many["responses"][:2]
        np.testing.assert_allclose(few["members"], many["members"][:2], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--n=0",), "--n: '0' is not a whole number from 1"),
        ((), "--n: missing"),
        (("--n=4", "--aggregate=worse"), "did you mean worst?"),
        (("--n=4", "--penalty=2"), "would go unused"),
        (("--n=4", "--aggregate=lower", "--penalty=-1"), "--penalty: '-1' is not a number of at least 0"),
        (("--n=4", "--polcy=ppo"), "did you mean --policy?"),
        (("--n=4", "--prompts=100000"), "but the run held out"),
        (("--n=4", "--policy=ppo"), "no checkpoints in"),
    ],
)
def test_what_best_of_n_refuses(
    words: tuple[str, ...], wanted: str, parent: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.build.best_of_n.load_data", tiny.load)
        with pytest.raises(SystemExit):
            main(["best-of-n", str(parent), *words])
    line = capsys.readouterr().err
    assert line.startswith("rlhf-jax: error: ")
    assert wanted in line
