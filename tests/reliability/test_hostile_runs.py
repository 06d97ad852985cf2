"""R22: runs of a stranger, as parents and in the commands: what their ``config.json`` names is not run."""

import pathlib
import shutil
from collections.abc import Sequence

import pytest

from rlhf_jax.config import from_json, to_json
from rlhf_jax.main import main
from tests.end_to_end.tiny import ROOT, SIZE, launch, load
from tests.reliability.hostile import code

CONFIG = ROOT / "configs" / "quickstart.py"
UTILITY = "from rlhf_jax.objectives.utilities import Log as Evil\nfrom rlhf_jax.objectives.divergences import *\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A policy and a reward model of one step each."""
    folder = tmp_path_factory.mktemp("stranger") / "run"
    steps = ("--config.sft.steps=1", "--config.reward.steps=1", "--config.stages=sft,reward")
    launch(f"--config={CONFIG}", f"--workdir={folder}", *SIZE, *steps, report=False)
    return folder


def hostile(run: pathlib.Path, place: pathlib.Path, canary: pathlib.Path) -> pathlib.Path:
    """A copy of the run whose configuration names code wherever it can."""
    shutil.copytree(run, place)
    evil = place / "evil.py"
    evil.write_text(code(canary, f"{UTILITY}def evil(prompt, response): return 0.5\n"))
    config = from_json((place / "config.json").read_text())
    config.reward.utility.name = f"{evil}:Evil"
    config.reward.utility_by_type.open.name = f"{evil}:Evil"
    config.reward.bounded = "yes"
    config.data.gold = f"{evil}:evil"
    config.ppo.kl.divergence, config.ppo.kl.estimator = f"{evil}:KL", "exact"
    config.dpo.divergence = f"{evil}:KL"
    (place / "config.json").write_text(to_json(config))
    return place


def commands(run: pathlib.Path, out: pathlib.Path) -> dict[str, Sequence[str]]:
    tiny = (f"--config={CONFIG}", *SIZE, f"--config.parents.sft={run}", f"--config.parents.reward={run}")
    return {
        "export of the reward model": ("export", str(run), "--stage=reward", f"--out={out / 'reward'}"),
        "export of the policy": ("export", str(run), "--stage=sft", f"--out={out / 'sft'}"),
        "evaluate": ("evaluate", str(run), "--json"),
        "best-of-n": ("best-of-n", str(run), "--n=2", "--prompts=2"),
        "labels": ("labels", "to-labelstudio", str(run), f"--out={out / 'labels'}", "--prompts=2", "--responses=2"),
        "report": ("report", str(run), f"--out={out / 'report'}"),
        "parents": (*tiny, "--config.stages=ppo", "--dry_run"),
        "parent to start from": (
            *(f"--config={CONFIG}", *SIZE, f"--config.parents.reward_start={run}", f"--config.parents.sft={run}"),
            *("--config.reward.init=reward", "--config.stages=reward", "--dry_run"),
        ),
        "further reward models": (*tiny, "--config.stages=ppo", f"--config.ppo.rewards.models={run}:1", "--dry_run"),
    }


def answer(words: Sequence[str]) -> None:
    try:
        if words[0].startswith("--"):
            launch(*words)
        else:
            main(words)
    except SystemExit as stopped:
        raise RuntimeError(f"ended with {stopped.code}") from None


@pytest.mark.reliability("R22", tries=11)
def test_code_that_a_run_names_is_not_run(
    tally, run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Held to: a file that the named code makes when it is run is never there, whatever the run is used for; each of
    the commands answers all the same, or says which code it would need."""
    monkeypatch.setattr("rlhf_jax.build.evaluate.load_data", load)
    monkeypatch.setattr("rlhf_jax.build.best_of_n.load_data", load)
    canary = tmp_path / "canary"
    stranger = hostile(run, tmp_path / "stranger", canary)
    for name, words in commands(stranger, tmp_path / "out").items():
        with tally.one(name):
            answer(words)
            assert not canary.exists(), "the canary sang"
    capsys.readouterr()
    with tally.one("the same again by its configuration"):
        with pytest.raises(SystemExit):
            main([f"--config={stranger / 'config.json'}", f"--workdir={tmp_path / 'again'}"])
        said = capsys.readouterr().err
        assert (
            "evil.py:evil is code, and a configuration in JSON runs none; if you trust it, add --config.data.gold="
            in said
        )
        assert not canary.exists()
    with tally.one("an unsettled range of rewards"):
        config = from_json((stranger / "config.json").read_text())
        config.reward.bounded = "auto"
        (stranger / "config.json").write_text(to_json(config))
        with pytest.raises(SystemExit):
            main(["evaluate", str(stranger)])
        assert 'write "yes" or "no" for "auto" there' in capsys.readouterr().err
        assert not canary.exists()
