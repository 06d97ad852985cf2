"""Every command of every page is looked at: bash makes of a page's blocks what it would call, and each call is parsed.

A run's command line goes through the program's own reading and validation; what it needs of files and earlier runs is
put there. The small commands are run: ``theory`` to its end, the others until they miss their files, which they look
for after their options.
"""

import ast
import importlib
import pathlib
import re
import shutil

import pytest

from rlhf_jax.commands import NAMES
from rlhf_jax.config import default_config, leaves, to_json
from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse
from rlhf_jax.main import main
from tests.docs.pages import PAGES, ROOT, blocks, calls, name_of

# Pages that are run from end to end elsewhere, and what does it.
RUN = {"docs/your_own.md": "tests/docs", "docs/tutorial.md": "tests/docs"}
SHELL_PAGES = [page for page in PAGES if blocks(page, "bash") and name_of(page) not in RUN]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE))
MISSED = r"no such|no tokenizer|not a run|no run|neither|cannot be read|has no"

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty folder, but for the configs and the experiments."""
    for folder in ("configs", "experiments"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", SHELL_PAGES, ids=name_of)
def test_every_command_is_one(page: pathlib.Path, here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = calls(page, here)
    assert found
    for program, *words in found:
        name = pathlib.Path(program).name
        if program.startswith("launch/"):
            assert (ROOT / program).is_file()
            words = words[1:] if words[0].isdigit() else words
            name = "rlhf-jax"
        if name == "make":
            _look_at_make(words)
        elif name == "pip":
            assert words[0] == "install"
            (extra,) = re.fullmatch(r"rlhf_jax\[(\w+)\]", words[1]).groups()  # type: ignore[union-attr]
            assert extra in EXTRAS
        elif name == "python" and words[:2] == ["-m", "pytest"]:
            assert all((ROOT / word).exists() for word in words[2:] if not word.startswith("-"))
        elif name == "python" and words[0] == "-m" and words[1] != "rlhf_jax":
            assert importlib.util.find_spec(words[1]) is not None  # type: ignore[attr-defined]
        else:
            words = words[2:] if words[:2] == ["-m", "rlhf_jax"] else words
            if words[0] in NAMES:
                _look_at_command(words, capsys)
            else:
                _look_at_run(words)


def _look_at_make(words: list[str]) -> None:
    target, *variables = words
    assert target in TARGETS
    for variable in variables:
        name, _, value = variable.partition("=")
        assert f"$({name})" in (ROOT / "Makefile").read_text()
        assert name != "EXP" or (ROOT / "experiments" / value).is_dir()


def _look_at_run(words: list[str]) -> None:
    made = [path for word in words if (path := _make_room(word))]
    if words[0].startswith("--help"):
        with pytest.raises(SystemExit) as stopped:
            parse(words)
        assert stopped.value.code == 0
        return
    assert parse(words).config.stages
    with pytest.raises(UserError):
        parse([*words, "--config.no_such_key=1"])
    for path in made:
        path.unlink()


def _look_at_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name, rest = words[0], words[1:]
    if name == "plan":  # what it takes is a run's, but for three options
        own = [word for word in rest if word.startswith(("--topology=", "--devices=", "--json="))]
        _look_at_run([*(word for word in rest if word not in own), "--dry_run"])
        rest = [*own, "--config=configs/no_such_file.py"]
    if name == "sweep" and any(word.startswith("--config=") for word in rest):
        rest.append("--dry_run")  # every point is checked, and listed
    if name == "theory" or rest[-1:] == ["--dry_run"] or rest[:1] in (["--help"], ["bash"], ["zsh"], ["fish"]):
        main([name, *rest])
        return
    told = _refused([name, *rest], capsys)
    assert re.search(MISSED, told), told
    assert "option" not in told
    assert "no such option" in _refused([name, *rest, "--no_such_option=1"], capsys)


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def _make_room(word: str) -> pathlib.Path | None:
    """Put there what a setting names: an earlier run, its configuration, a file of data; the file, if it is one."""
    name, _, value = word.partition("=")
    path = pathlib.Path(value)
    is_config = name == "--config" and value.startswith("runs/")
    if is_config or (name == "--config.data.path" and path.suffix):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(default_config()) if is_config else "")
        return path
    if name.startswith("--config.parents.") or name == "--config.data.path":
        path.mkdir(parents=True, exist_ok=True)
    return None


@every_page
def test_what_is_named_in_passing_exists(page: pathlib.Path) -> None:
    """Make's targets, commands, configs, launchers and settings in the running text and in tables."""
    text = page.read_text()
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= TARGETS
    assert set(re.findall(r"`rlhf-jax ([a-z][a-z-]+)", text)) <= set(NAMES)
    for path in re.findall(r"\b((?:configs|launch)/\w+\.\w+)", text):
        assert (ROOT / path).is_file(), path
    keys = {key for key, _ in leaves(default_config())}
    groups = {key.rpartition(".")[0] for key in keys} | {"parents", "reward.annotator_weights", "reward"}
    for key in re.findall(r"--(?:no)?config\.([a-z][\w.]*\w)", text):
        stem = re.sub(r"^reward\.utility_by_type\.\w+", "reward.utility", key)
        stem = re.sub(r"^reward\.annotator_weights\.\w+", "reward.annotator_weights", stem)
        assert stem in keys | groups, key


@every_page
def test_blocks_of_python_can_be_read_and_import_what_there_is(page: pathlib.Path) -> None:
    for block in blocks(page, "python"):
        for line in ast.walk(ast.parse(block)):
            if isinstance(line, ast.ImportFrom) and str(line.module).startswith("rlhf_jax"):
                module = importlib.import_module(str(line.module))
                for one in line.names:
                    assert hasattr(module, one.name) or importlib.import_module(f"{line.module}.{one.name}")


def test_a_page_that_is_run_elsewhere_is_named_there() -> None:
    for page, folder in RUN.items():
        if (ROOT / page).is_file():
            tests = [path for path in (ROOT / folder).rglob("test_*.py") if path.name != pathlib.Path(__file__).name]
            assert any(pathlib.Path(page).name in path.read_text() for path in tests), page


def test_bash_is_what_looks_at_the_pages() -> None:
    assert shutil.which("bash")
    assert len(SHELL_PAGES) >= 20
