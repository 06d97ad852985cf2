"""The pages of the repository, and the commands that their blocks of shell come to."""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("", "docs", "docs/reference", "launch", "benchmarks", "experiments", "experiments/*")
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md".lstrip("/")))

# What a page may call; in its place something stands that writes down what it was called with.
PROGRAMS = ("rlhf-jax", "python", "make", "pip")
_STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([os.path.relpath(sys.argv[0], os.environ["HERE"]), *sys.argv[1:]]) + "\\n")
"""


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """What stands between the fences of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def calls(page: pathlib.Path, folder: pathlib.Path) -> list[list[str]]:
    """Program and arguments of every call that bash makes of the page's blocks, one after the other in ``folder``."""
    stand_ins = [folder / "bin" / program for program in PROGRAMS]
    stand_ins += [folder / ".venv" / "bin" / program for program in PROGRAMS]
    stand_ins += [folder / "launch" / script.name for script in (ROOT / "launch").glob("*.sh")]
    for stand_in in stand_ins:
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(_STAND_IN)
        stand_in.chmod(0o755)
    written = folder / "calls"
    written.touch()
    for block in blocks(page, "bash"):
        path = f"{folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
        environment = {"PATH": path, "CALLS": str(written), "HERE": str(folder), "HOME": str(folder)}
        done = subprocess.run(["bash", "-eu", "-c", block], cwd=folder, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), f"{block}\n{done.stderr}"
    return [json.loads(line) for line in written.read_text().splitlines()]
