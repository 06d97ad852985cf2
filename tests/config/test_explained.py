"""What is told of each setting: where it is read from, and that nothing is left out."""

import fnmatch

import pytest

from rlhf_jax import __version__
from rlhf_jax.config import default_config, leaves
from rlhf_jax.config.explained import Setting, settings
from rlhf_jax.config.meanings import meanings
from rlhf_jax.config.units import UNITS, unit_of
from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse
from rlhf_jax.help import explain, help_text
from rlhf_jax.main import main


def test_every_setting_has_a_meaning_and_every_number_a_unit() -> None:
    found = {one.key: one for one in settings()}
    defaults = dict(leaves(default_config()))
    assert found.keys() == defaults.keys(), "a default without a comment beside it, in rlhf_jax/config/"
    assert {key: one.default for key, one in found.items()} == defaults
    numbers = [key for key, value in defaults.items() if type(value) in (int, float)]
    untold = [key for key in numbers if unit_of(key) is None]
    assert not untold, "no unit in rlhf_jax/config/units.py"
    first = {next(pattern for pattern in UNITS if fnmatch.fnmatch(key, pattern)) for key in numbers}
    assert first == UNITS.keys(), "a unit of no setting"


def test_a_meaning_is_the_comment_beside_and_below() -> None:
    """As they stand in the source: on one line, over several, on the first line of a value of several, in a group."""
    found = meanings()
    assert found["sft.steps"] == "updates"
    assert found["reward.balance_utilities"] == (
        "divide each utility by U(1) - U(0): the same best rewards, but no prompt type's gradients drown those of the "
        "others"
    )
    assert found["segments.kinds"].startswith("KIND:LEVEL, a head for each")
    assert found["segments.kinds"].endswith("of LEVELS")
    assert found["ppo.optimizer"] == "of the policy"
    assert found["dpo.optimizer.warmup"] == "updates of linear rise from 0 to the peak"
    assert found["reward.utility.sigma"] == "scale of log_sigmoid and exponential, in units of reward; others: unused"
    assert "sft.optimizer" not in found


def test_what_is_told_of_some() -> None:
    found = {one.key: one for one in settings()}
    assert found["ppo.kl.target"] == Setting(
        "ppo.kl.target", 6.0, "number", "nats per response", "above 0", (), "adaptive: nats per response"
    )
    assert found["model.norm"].choices == ("rms", "layer", "rms1p")
    assert found["model.tied"].choices == ("true", "false")
    assert found["data.path"].allowed == found["ppo.truncate.token"].allowed == ""


def test_help_explains_a_setting_a_group_and_a_word() -> None:
    one = explain("ppo.kl.target")
    assert one.splitlines()[0] == "--config.ppo.kl.target=6.0"
    assert "nats per response" in one
    assert "above 0" in one
    assert explain("--config.ppo.kl.target=3") == explain("config.ppo.kl.target") == one
    group = explain("lora")
    assert group.startswith("config.lora: adapters beside frozen kernels")
    assert [line for line in group.splitlines() if line.startswith("--")] == [
        "--config.lora.rank=0", "--config.lora.alpha=16.0", "--config.lora.targets=q,v", "--config.lora.base=float32",
        "--config.lora.stages=",
    ]  # fmt: skip
    assert "--config.reward.ensemble.bootstrap=false" in explain("Poisson")
    assert explain("reward.utility_by_type.open.name") == explain("reward.utility.name")
    assert "prompt type -> the same keys" in explain("reward.utility_by_type")


def test_help_for_what_there_is_not_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--help ppo.kl.horizn: .*; did you mean ppo.kl.horizon\?$"):
        explain("ppo.kl.horizn")


@pytest.mark.parametrize("words", [["--help", "lora.rank"], ["--help=lora.rank"], ["--help", "--config.lora.rank"]])
def test_the_word_after_help_is_explained(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == explain("lora.rank")


def test_help_before_a_command_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["theory", "--help"])
    told = capsys.readouterr().out
    main(["--help", "theory"])
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    "words", [["--help", "learning rate"], ["-h", "learning", "rate"], ["--help", "Learning_Rate"]]
)
def test_words_are_joined_and_spaces_are_underscores(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "--config.sft.optimizer.learning_rate=" in out
    assert "--config.sft.steps=" not in out


def test_the_short_help_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["theory", "-h"])
    told = capsys.readouterr().out
    main(["theory", "--help"])
    assert capsys.readouterr().out == told
    for words, out in ((["-h"], help_text()), (["--version"], f"rlhf_jax {__version__}")):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
        assert capsys.readouterr().out.strip() == out


@pytest.mark.parametrize("words", [["train", "--config=configs/sft.py"], ["trian"], ["foo", "--config=x"]])
def test_a_run_is_no_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    told = "no such command; a run is started by options alone: rlhf-jax --config=FILE.py --workdir=DIR"
    assert capsys.readouterr().err == f"rlhf-jax: error: {words[0]}: {told}\n"
