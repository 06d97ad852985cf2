"""R32: what no source of ours may contain, and the few places that may."""

import ast
import pathlib
import re
import shutil

import pytest

from tests.end_to_end.tiny import ROOT
from tests.launch.test_launchers import GCLOUD, LAUNCH, bash, stand_in

PARTS = ("rlhf_jax", "launch", "experiments", "benchmarks", "configs", "docs")
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "torch",
    "telnetlib",
    "ftplib",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# By the last of the words of what is called.
CALLS = {
    "extractall",
    "unpack_archive",
    "mktemp",
    "system",
    "popen",
    "getoutput",
    "getstatusoutput",
    "literal_eval",
    "run_path",
    "run_module",
    "import_module",
    "exec_module",
    "load_module",
    "unsafe_load",
    "full_load",
    "urlopen",
    "urlretrieve",
    "Markup",
}
MUST_BE_FALSE = {"trust_remote_code", "shell", "allow_pickle"}
MUST_BE_TRUE = {"verify"}
# (file, what): why it may.
ALLOWED = {
    ("rlhf_jax/flags.py", "run_path"): "--config=FILE.py, which the user names",
    ("rlhf_jax/objectives/members.py", "run_path"): "FILE.py:CLASS, which the user names",
    ("rlhf_jax/data/gold.py", "run_path"): "FILE.py:FUNCTION, which the user names",
    ("rlhf_jax/sweeps/space.py", "run_path"): "--space=FILE.py, which the user names, or the sweep's copy of it",
    ("rlhf_jax/main.py", "import_module"): "one of commands.NAMES",
    ("experiments/run.py", "import_module"): "one of the folders of experiments/",
    ("benchmarks/harness/worker.py", "import_module"): "one of benchmarks/sides/, which a script names",
    ("benchmarks/sides/by_generate.py", "torch"): "in an environment of its own, beside which ours is measured",
    ("benchmarks/sides/by_hand.py", "torch"): "likewise",
    ("benchmarks/sides/by_trl.py", "torch"): "likewise",
    ("benchmarks/sides/pytorch.py", "torch"): "likewise",
    ("docs/generate.py", "import_module"): "one of commands.NAMES",
    ("rlhf_jax/commands/completion.py", "literal_eval"): "of this package's own sources, and literals alone",
    ("rlhf_jax/reports/page.py", "Markup"): "the page's own script, and JSON without signs of HTML",
}


def faults(text: str) -> set[str]:
    """What a Python source has that it may have only by ALLOWED."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).split(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            found |= _call(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {"http://"} if re.match(r"http://(?!localhost|127\.0\.0\.1)", node.value) else set()
    return found


def _call(node: ast.Call) -> set[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    given = {word.arg: word.value for word in node.keywords if word.arg}
    found = {name} & CALLS | ({name} & BUILTINS if isinstance(node.func, ast.Name) else set())
    for wanted, words in ((False, MUST_BE_FALSE), (True, MUST_BE_TRUE)):
        found |= {word for word in words & given.keys() if getattr(given[word], "value", None) is not wanted}
    owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    if owner in ("np", "numpy") and name == "load" and "allow_pickle" not in given:
        found.add("np.load")
    if name == "from_pretrained" and "trust_remote_code" not in given:
        found.add("from_pretrained")
    if owner == "yaml" and name.startswith("load"):
        found.add("yaml.load")
    return found


PLANTED = {
    "import pickle": "pickle", "from dill import loads": "dill", "import torch.nn": "torch", "eval('1')": "eval",
    "exec(x)": "exec", "compile(x, 'f', 'exec')": "compile", "__import__('os')": "__import__",
    "os.system('x')": "system",
    "subprocess.run('x', shell=True)": "shell", "tarfile.open(x).extractall()": "extractall",
    "np.load(x)": "np.load", "np.load(x, allow_pickle=True)": "allow_pickle", "yaml.load(x)": "yaml.load",
    "T.from_pretrained(x)": "from_pretrained", "T.from_pretrained(x, trust_remote_code=y)": "trust_remote_code",
    "tempfile.mktemp()": "mktemp", "get(x, verify=False)": "verify", "get('http://host/x')": "http://",
    "runpy.run_path(x)": "run_path", "importlib.import_module(x)": "import_module", "Markup(x)": "Markup",
}  # fmt: skip


def sources(*endings: str) -> list[pathlib.Path]:
    return [
        path
        for part in PARTS
        for path in sorted((ROOT / part).rglob("*"))
        if path.name.endswith(endings) and path.is_file()
    ]


@pytest.mark.reliability("R32", tries=len(PLANTED) + 4)
def test_no_source_unpickles_evaluates_or_hands_a_text_to_a_shell(tally) -> None:
    """Held to: the syntax trees of all sources; the checker is first seen to find each of these in a line of its own.
    The list of exceptions is as long as what it excepts."""
    for text, name in PLANTED.items():
        with tally.one(text):
            assert name in faults(text)
    used: set[tuple[str, str]] = set()
    with tally.one("Python"):
        paths = [*sources(".py"), ROOT / "setup.py"]
        assert len(paths) > 300
        for path in paths:
            where = path.relative_to(ROOT).as_posix()
            own = {(where, name) for name in faults(path.read_text(encoding="utf-8"))}
            assert own <= ALLOWED.keys(), own - ALLOWED.keys()
            used |= own
    with tally.one("the exceptions"):
        assert used == ALLOWED.keys(), ALLOWED.keys() - used
    with tally.one("pages and shells"):
        for path in sources(".j2", ".sh", ".sbatch", ".html"):
            found = re.findall(
                r"\|\s*safe\b|innerHTML|document\.write|\beval\b|autoescape false|http://", path.read_text()
            )
            assert not found, (path, found)
    with tally.one("exceptions of the linter"):
        for path in paths:
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not re.search(r"# noqa: (?:[A-Z]+\d+, )*S\d+(?:, [A-Z]+\d+)*$", line), (
                    f"{path}: {line}: without a reason"
                )


WORDS = (
    "a b",
    "$(touch CANARY)",
    "`touch CANARY`",
    "; touch CANARY #",
    "' ; touch CANARY '",
    '" $HOME "',
    "*",
    "--x=\\n",
    "é",
)


@pytest.mark.reliability("R32", tries=3)
def test_words_of_a_command_line_stay_words(tally, tmp_path: pathlib.Path) -> None:
    """Held to: what a stand-in for the program is given, word by word, and a file that the words would make."""
    canary = tmp_path / "canary"
    words = [word.replace("CANARY", str(canary)) for word in WORDS]
    python = tmp_path / "a bin" / "python"
    stand_in(python.parent, python.name, 'shift 2; for word in "$@"; do printf "%s\\0" "$word"; done')
    with tally.one("launch/local.sh"):
        found = bash("bash", str(LAUNCH / "local.sh"), "2", *words, PYTHON=str(python))
        assert found.stdout.split("\0")[:-1] == words, found.stderr
    with tally.one("launch/slurm.sbatch"):
        stand_in(tmp_path / "bin", "srun", 'shift 4; for word in "$@"; do printf "%s\\0" "$word"; done')
        where = {"WORKDIR": words[1], "CONFIG": words[3], "PYTHON": str(python), "SLURM_JOB_ID": "7"}
        found = bash("bash", str(LAUNCH / "slurm.sbatch"), *words, path=tmp_path / "bin", **where)
        assert found.stdout.split("\0")[:-1] == [f"--config={words[3]}", f"--workdir={words[1]}", *words], found.stderr
    with tally.one("launch/tpu_pod.sh"):
        stand_in(tmp_path / "bin", "gcloud", GCLOUD)
        stand_in(tmp_path / "bin", "git", "")
        for name, text in (("state", ""), ("log", ""), ("ends", "ACTIVE 0\n" * 9)):
            (tmp_path / name).write_text(text)
        launcher = tmp_path / "launch" / "tpu_pod.sh"
        launcher.parent.mkdir()
        shutil.copy(LAUNCH / "tpu_pod.sh", launcher)
        files = {name.upper(): str(tmp_path / name) for name in ("state", "log", "ends")}
        where = {"NAME": "a", "ZONE": "z", "NFS": words[4], "POLL": "0"}
        found = bash("bash", str(launcher), *words, path=tmp_path / "bin", **files, **where)
        assert found.returncode == 0, found.stderr
        done = (tmp_path / "log").read_text()
        ours = done.split("-m rlhf_jax ", 1)[1].splitlines()[0]
        assert bash("bash", "-c", f'printf "%s\\0" {ours}').stdout.split("\0")[:-1] == words
        mounted = done.split("mount -t nfs ", 1)[1].splitlines()[0]
        assert bash("bash", "-c", f'printf "%s\\0" {mounted}').stdout.split("\0")[:-1] == [words[4], "/mnt/runs"]
    assert not canary.exists()
