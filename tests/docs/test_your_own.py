"""The page on one's own model and data, followed from its first line to its last, without a network."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_own.md").read_text()


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
    """One device, nobody behind the proxy, no word to the libraries that they should not try, and a port of its own."""
    env = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "HF_HUB_OFFLINE")}
    with socket.socket() as asked:
        asked.bind(("localhost", 0))
        port = str(asked.getsockname()[1])
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://localhost:9")
    return {**env, **proxies, "no_proxy": "localhost", "PYTHONPATH": str(ROOT), "PORT": port}


@pytest.mark.slow
def test_the_page_leads_from_a_folder_and_a_file_to_exported_models(tmp_path: pathlib.Path) -> None:
    here = clone(tmp_path)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks("bash")],
        cwd=here,
        env=offline(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    print(done.stdout, done.stderr)
