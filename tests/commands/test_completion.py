"""The scripts of ``rlhf-jax completion``, asked by the shells themselves what they would offer."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from rlhf_jax.commands import NAMES, collapse, completion, export, plan, theory
from rlhf_jax.config import STAGES, default_config, leaves
from rlhf_jax.main import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
BREAKS = " \t\n\"'><=;|&(:"  # where bash breaks words unless it is told otherwise


def offered(line: str, breaks: str = BREAKS) -> list[str]:
    """What bash replaces the end of the line by, one or several; a space at the end means that the word is done."""
    asked = 'COMP_WORDBREAKS="$1" COMP_LINE="$2" COMP_POINT=${#2}; _rlhf_jax; printf "%s\\n" "${COMPREPLY[@]}"'
    script = f"{completion.bash()}\n{asked}"
    done = subprocess.run(
        ["bash", "-c", script, "bash", breaks, line], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_first_word_is_a_command_or_an_option() -> None:
    assert {f"{name} " for name in NAMES} | {"--config=", "--help "} == set(offered("rlhf-jax "))
    assert offered("rlhf-jax ev") == ["evaluate "]
    assert set(offered("rlhf-jax --")) == {
        *("--config=", "--config.", "--noconfig.", "--workdir=", "--dry_run ", "--help ", "--version "),
    }


def test_settings_are_completed_group_by_group() -> None:
    assert offered("rlhf-jax --config=configs/ppo.py --config.ppo.k") == ["--config.ppo.kl."]
    assert offered("rlhf-jax --config.ppo.kl.ho") == ["--config.ppo.kl.horizon="]
    top = {key.partition(".")[0] + ("." if "." in key else "=") for key, _ in leaves(default_config())}
    assert set(offered("rlhf-jax --config.")) == {f"--config.{one}" for one in top}
    assert set(offered("rlhf-jax --config.lora.")) == {
        f"--config.lora.{key}=" for key in ("rank", "alpha", "targets", "base", "stages")
    }
    assert offered("rlhf-jax --config.lora.rang") == [""]


def test_values_are_those_that_the_check_lets_pass() -> None:
    assert offered("rlhf-jax --config.ppo.kl.divergence=he") == ["hellinger "]
    assert offered("rlhf-jax --config.ppo.kl.divergence=he", breaks=" \n") == ["--config.ppo.kl.divergence=hellinger "]
    assert set(offered("rlhf-jax --config.model.tied=")) == {"true ", "false "}
    assert offered("rlhf-jax --config.sft.steps=") == [""]
    assert "FILE.py:CLASS " not in offered("rlhf-jax --config.reward.utility.name=")


def test_stages_and_what_else_a_usage_names() -> None:
    assert set(offered("rlhf-jax export runs/a --stage=")) == {
        f"{stage} " for stage in ("sft", "reward", "reward_common", "ppo", "dpo", "online")
    }
    assert set(offered("rlhf-jax evaluate runs/a --stage=")) == {"reward ", "reward_common "}
    assert offered("rlhf-jax chat --stage=p") == ["ppo "]
    assert offered("rlhf-jax best-of-n --policy=on") == ["online "]
    assert set(offered("rlhf-jax labels ")) == {"to-labelstudio ", "from-labelstudio "}
    assert offered("rlhf-jax labels to-labelstudio READ") == ["README.md "]
    assert set(offered("rlhf-jax completion ")) == {"bash ", "zsh ", "fish "}
    assert set(offered("rlhf-jax --config.stages=")) == {f"{stage} " for stage in STAGES}
    assert offered("rlhf-jax --config.stages=sft,re") == ["sft,reward ", "sft,reward_common "]


def test_what_help_is_asked_for() -> None:
    assert offered("rlhf-jax --help ppo.k") == ["ppo.kl."]
    assert "ppo.kl.horizon " in offered("rlhf-jax --help ppo.kl.")
    assert offered("rlhf-jax -h ev") == ["evaluate "]


def test_only_switches_are_negated() -> None:
    assert offered("rlhf-jax --noconfig.data.") == ["--noconfig.data.chat "]


def test_files_are_those_that_an_option_takes() -> None:
    assert offered("rlhf-jax --config=configs/ppo_n") == ["configs/ppo_nplus.py "]
    assert offered("rlhf-jax --config=conf") == ["configs/"]
    assert offered("rlhf-jax --config=READ") == [""]
    assert offered("rlhf-jax --workdir=conf") == ["configs/"]
    assert offered("rlhf-jax --workdir=READ") == [""]
    assert offered("rlhf-jax --config.data.path=READ") == ["README.md "]
    assert offered("rlhf-jax evaluate --data=READ") == ["README.md "]
    assert offered("rlhf-jax collapse READ") == ["README.md "]


@pytest.mark.parametrize("module", [theory, collapse, export, plan])
def test_the_options_of_a_command_are_those_that_it_reads(module: object) -> None:
    name = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    found = {option.strip(" =.") for option in offered(f"rlhf-jax {name} --")}
    assert found == set(module._OPTIONS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_options_with_their_values(name: str) -> None:
    found = offered(f"rlhf-jax {name} -")
    assert "--help " in found
    assert ("--config." in found) is (name in ("plan", "sweep"))
    assert "--json=" in found if name == "plan" else "--json=" not in found


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_offers_the_same() -> None:
    for line, word in {
        "rlhf-jax ev": "evaluate",
        "rlhf-jax --config.ppo.kl.ho": "--config.ppo.kl.horizon",
        "rlhf-jax --config.ppo.kl.divergence=he": "--config.ppo.kl.divergence=hellinger",
        "rlhf-jax theory --ut": "--utility",
    }.items():
        script = f"{completion.fish()}\ncomplete -C '{line}'"
        done = subprocess.run(["fish", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert [found.split("\t")[0] for found in done.stdout.splitlines()] == [word], done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_runs_the_function_of_bash() -> None:
    """As its bashcompinit does: under the emulation of sh, with the line so far."""
    line = "rlhf-jax --config.ppo.kl.divergence=he"
    ask = '() { emulate -L sh; _rlhf_jax }; print -r -- "$COMPREPLY[1]"'
    script = f"compdef() {{ }}\n{completion.zsh()}\nCOMP_LINE={line!r} COMP_POINT={len(line)}\n{ask}"
    done = subprocess.run(["zsh", "-f", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "--config.ppo.kl.divergence=hellinger \n", done.stderr


def test_fish_has_a_line_for_every_setting() -> None:
    lines = completion.fish().splitlines()
    for key, _ in leaves(default_config()):
        assert sum(f" -l config.{key} " in line for line in lines) == 1, key


def test_a_shell_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "bahs"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "rlhf-jax: error: completion: bahs: name one shell of bash, zsh, fish; did you mean bash?\n"
    )


def test_the_script_is_printed_without_jax_and_without_loading_the_other_commands() -> None:
    code = (
        "import sys; from rlhf_jax.main import main; main(['completion', 'bash']);"
        "print([m for m in ('jax', 'scipy', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr.strip()) == (completion.bash(), "[]")
