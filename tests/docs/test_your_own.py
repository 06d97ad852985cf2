"""The page on one's own model and data, followed from its first line to its last, without a network."""

import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys

import pytest
import transformers
from ml_collections import ConfigDict

from rlhf_jax.config import default_config
from rlhf_jax.flags import parse
from rlhf_jax.metrics import read_jsonl, read_summary
from rlhf_jax.models import hf
from tests.end_to_end import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_own.md").read_text()
FIGURES = {
    "ours": {"reward.pair_accuracy", "reward.w1.count.fact"},
    "ppo": {"ppo.reward.mean", "ppo.reward.mean.before", "ppo.kl"},
}


def blocks(language: str) -> str:
    """Everything that the page shows in this language, in its order."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


def clone(path: pathlib.Path) -> pathlib.Path:
    """What a newcomer has: the repository with its environment, and nothing else."""
    for name in ("rlhf_jax", "configs", "launch"):
        (path / name).symlink_to(ROOT / name)
    (path / ".venv").symlink_to(sys.prefix)
    return path


def offline() -> dict[str, str]:
    """One device, a hub that does not answer, libraries that do not know of that, and a port of its own."""
    env = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "HF_HUB_OFFLINE")}
    with socket.socket() as asked:
        asked.bind(("localhost", 0))
        port = str(asked.getsockname()[1])
    return {**env, "HF_ENDPOINT": "http://localhost:9", "PYTHONPATH": str(ROOT), "PORT": port}


def bash(script: str, *options: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    words = ["bash", *options, "-c", script]
    return subprocess.run(words, cwd=cwd, env=offline(), capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_the_page_leads_from_a_folder_and_a_file_to_exported_models(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = bash(blocks("bash"), "-euo", "pipefail", cwd=clone(tmp_path))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    monkeypatch.chdir(tmp_path)

    # Every figure that the page names, and both kinds of prompt under a utility of their own.
    for run, named in FIGURES.items():
        assert named <= read_summary(pathlib.Path("runs") / run).keys()

    # Interrupted in its first step (or soon after), and gone on with by others to the end.
    assert "exit code 75\n" in done.stdout
    assert re.search(r"^sft: going on from step \d$", done.stdout, re.MULTILINE)
    assert tiny.last_step(pathlib.Path("runs/mesh"), "sft") == 20
    assert [row["step"] for row in read_jsonl(pathlib.Path("runs/mesh/metrics.jsonl"))][-1] == 20

    # What came out can be begun with again, and ends its turns.
    for name in ("policy", "reward"):
        back = transformers.AutoTokenizer.from_pretrained(f"exported/{name}")
        assert back.eos_token == "<|im_end|>"
        assert back.chat_template
    spec, _ = hf.load("exported/policy")
    assert spec == hf.read_spec("ours/model")
    assert hf.load_reward_model("exported/reward")

    # The commands for clusters are those of a run.
    for command in commands():
        given = [word.removeprefix("ARGS=") for word in shlex.split(command)]
        given = [word.replace("/mnt/runs/ours", "ours") for word in given if word.startswith("--config")]
        parse(["--config=ours/config.py", "--workdir=runs/x", *given])


def commands() -> list[str]:
    """The commands that need a cluster."""
    return blocks("console").replace("\\\n", " ").splitlines()


def test_commands_for_clusters_are_bash_and_name_what_their_launchers_read() -> None:
    assert bash(blocks("console"), "-n").stderr == ""
    launched = set()
    for command in commands():
        for launcher in re.findall(r"launch/\w+(?:\.\w+)?", command):
            launched.add(launcher.removeprefix("launch/"))
            read = (ROOT / launcher).read_text()
            for name in re.findall(r"\b([A-Z]+)=", command):
                assert re.search(rf"\b{name}\b", read), (launcher, name)
    assert launched == {path.name for path in (ROOT / "launch").iterdir()} - {
        "README.md", "Dockerfile.dockerignore", "local.sh", "until_done.sh"
    }  # fmt: skip


def test_every_setting_that_the_page_names_exists() -> None:
    sections = "|".join(name for name, node in default_config().items() if isinstance(node, ConfigDict))
    named = set(re.findall(rf"`(?:config\.)?((?:{sections})\.\w[\w.]*)", PAGE))
    figures = set().union(*FIGURES.values())
    assert named > figures
    for key in named - figures:
        node = default_config()
        for part in key.split("."):
            assert part in node, key
            node = node[part]
