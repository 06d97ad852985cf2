"""R22, R24 and R25 on one run of every stage: hostile texts go in, secrets are in its environment, and a stranger may
have changed its configuration."""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from rlhf_jax.build.pretrained import folder_of
from rlhf_jax.config import default_config, from_json, leaves, to_json, validate
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.main import main
from rlhf_jax.parallel.failures import show_stacks
from tests.end_to_end.tiny import FILE, ROOT, SIZE, write_jsonl
from tests.reliability.hostile import CONTROLS, TEXTS, code, one_line, see_page

SECRET = "canary4711"
VARIABLES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY",
)  # fmt: skip
LOGIN = f"http://somebody:{SECRET}@127.0.0.1:9"
STAGES = "sft,reward,ppo"
STEPS = ("--config.sft.steps=1", "--config.reward.steps=1", "--config.ppo.iterations=1", "--config.ppo.eval_every=1")
CONFIG = f"--config={ROOT / 'configs' / 'lists_file.py'}"


def texts_file(path: pathlib.Path) -> pathlib.Path:
    def row(number: int) -> dict[str, object]:
        said = [TEXTS[(number + place) % len(TEXTS)] for place in range(4)]
        responses = [{"text": f"{text} {number}", "score": 1.0 - place} for place, text in enumerate(said)]
        return {"prompt": f"{said[0]} {number}", "responses": responses, "prompt_type": TEXTS[number % 5]}

    return write_jsonl(path, map(row, range(40)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """A run of every stage, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    words = (
        *(CONFIG, f"--workdir={folder / 'run'}", f"--config.data.path={texts_file(folder / 'texts.jsonl')}"),
        *(f"--config.stages={STAGES}", "--config.tokenizer.kind=byte", *SIZE, *FILE, *STEPS),
    )
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), LOGIN)
    remote = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "remote.origin.url", "GIT_CONFIG_VALUE_0": LOGIN}
    secrets = dict.fromkeys(VARIABLES, SECRET)
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_jax", *words],
        cwd=ROOT,
        env={**os.environ, **secrets, **proxies, **remote},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout + done.stderr


def said_by(words: Sequence[str]) -> str:
    """What a command says on both outputs. Raises RuntimeError if it does not end well."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(words)
        except SystemExit as stopped:
            raise RuntimeError(f"ended with {stopped.code}: {out.getvalue()}") from None
    return out.getvalue()


# ------------------------------------------------------------------------- R22


def named_code(run: pathlib.Path, place: pathlib.Path, canary: pathlib.Path) -> pathlib.Path:
    """A copy of the run whose configuration names code wherever it can."""
    shutil.copytree(run, place)
    evil = place / "evil.py"
    rest = "from rlhf_jax.objectives.utilities import Log as Evil\ndef evil(prompt, response): return 0.5\n"
    evil.write_text(code(canary, rest))
    config = from_json((place / "config.json").read_text())
    config.reward.loss, config.reward.bounded = "utility", "yes"
    config.reward.utility.name = config.ppo.kl.divergence = config.dpo.divergence = f"{evil}:Evil"
    config.ppo.kl.estimator = "exact"
    config.data.gold = f"{evil}:evil"
    (place / "config.json").write_text(to_json(config))
    return place


def uses(run: pathlib.Path, out: pathlib.Path) -> dict[str, Sequence[str]]:
    """Every way of using a run, the cheap ones first."""
    data = f"--config.data.path={run.parents[0] / 'texts.jsonl'}"
    own = (
        CONFIG,
        data,
        "--config.tokenizer.kind=byte",
        *SIZE,
        *FILE,
        *STEPS,
        f"--config.parents.sft={run}",
        "--dry_run",
    )
    ppo = (*own, "--config.stages=ppo", f"--config.parents.reward={run}")
    again = (f"--config.parents.reward_start={run}", "--config.reward.init=reward", "--config.stages=reward")
    return {
        "report": ("report", str(run), f"--out={out / 'report'}"),
        "collapse": ("collapse", str(run)),
        "export of the reward model": ("export", str(run), "--stage=reward", f"--out={out / 'reward'}"),
        "export of the policy": ("export", str(run), "--stage=ppo", f"--out={out / 'ppo'}"),
        "parents": ppo,
        "parent to start from": (*own, *again),
        "further reward models": (*ppo, f"--config.ppo.rewards.models={run}:1"),
        "evaluate": ("evaluate", str(run), f"--out={out / 'evaluation'}"),
        "best-of-n": ("best-of-n", str(run), "--n=2", "--prompts=2"),
        "labels": ("labels", "to-labelstudio", str(run), f"--out={out / 'labels'}", "--prompts=2", "--responses=2"),
    }


@pytest.mark.reliability("R22", tries=13)
def test_code_that_a_run_names_is_not_run(tally, whole, tmp_path: pathlib.Path) -> None:
    """Held to: the folder that the named code makes when it is run is never there, whatever the run is used for. The
    uses answer all the same; what cannot be had without the code is told as such, with the words that would run it."""
    canary, stranger = tmp_path / "canary", tmp_path / "stranger" / "run"
    named_code(whole[0], stranger, canary)
    shutil.copy(whole[0].parent / "texts.jsonl", stranger.parent)
    for name, words in uses(stranger, tmp_path / "out").items():
        with tally.one(name):
            said = said_by(words)
            assert not canary.exists(), "the canary sang"
            assert name != "best-of-n" or f"is code; if you trust it, add --gold={stranger}/evil.py:evil" in said
    with tally.one("named, it runs"):  # or nothing above would have been seen
        said_by([*uses(stranger, tmp_path)["best-of-n"], f"--gold={stranger}/evil.py:evil"])
        assert canary.exists()
        canary.rmdir()
    with tally.one("the same again by its configuration"):
        with pytest.raises(
            RuntimeError, match=r"config\.data\.gold: .*evil is code, and a configuration in JSON runs none"
        ):
            said_by([f"--config={stranger / 'config.json'}", f"--workdir={tmp_path / 'again'}"])
        assert not canary.exists()
    with tally.one("a range of rewards that only the code knows"):
        path = stranger / "config.json"
        path.write_text(path.read_text().replace('"bounded": "yes"', '"bounded": "auto"'))
        with pytest.raises(RuntimeError, match=r'is not run: write "yes" or "no" for "auto" there'):
            said_by(["evaluate", str(stranger)])
        assert not canary.exists()


# ------------------------------------------------------------------------- R24


def files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.reliability("R24", tries=8)
def test_no_secret_is_in_any_file_or_output(tally, whole, tmp_path, monkeypatch, capfd) -> None:
    """Held to: a word that stands in six variables, in four proxies and in the address of a git remote is nowhere in
    what a run of every stage, its report, its exports and its failures leave behind or say."""
    run, said = whole
    for name in (*VARIABLES, "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, LOGIN if "PROXY" in name else SECRET)
    with tally.one("outputs"):
        assert "report: " in said
        assert SECRET not in said
    with tally.one("files"):
        files = list(files_of(run))
        assert {"metrics.jsonl", "env.json", "config.json", "index.html"} <= {path.name for path in files}
        assert any("tfevents" in path.name for path in files)
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
        assert not [path for path in files if SECRET in str(path)]
    with tally.one("exports"):
        for stage in ("reward", "ppo"):
            said_by(["export", str(run), f"--stage={stage}", f"--out={tmp_path / stage}"])
        assert len(list(files_of(tmp_path))) >= 8
        assert not [path for path in files_of(tmp_path) if SECRET.encode() in path.read_bytes()]
    with tally.one("stacks of all threads"):
        capfd.readouterr()
        show_stacks()
        found = capfd.readouterr().err
        assert "test_no_secret" in found
        assert SECRET not in found
    with tally.one("an error with its traceback"):
        words = [
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "rlhf_jax",
            CONFIG,
            "--config.data.path=texts.jsonl",
            "--dry_run",
        ]
        broken = "import rlhf_jax.run as r; import rlhf_jax.main as m; r.inherit_model = lambda c: 1 / 0; m.main({!r})"
        done = subprocess.run(
            [sys.executable, "-c", broken.format(words[5:])], cwd=whole[0].parent, capture_output=True, text=True
        )
        assert "ZeroDivisionError" in done.stderr
        assert SECRET not in done.stderr + done.stdout
    for what in ("tokenizer", "model"):
        with tally.one(f"a {what} that is not to be had through a proxy"):
            with pytest.raises(UserError) as refused:
                (
                    build_tokenizer("pretrained", path="no/body")
                    if what == "tokenizer"
                    else folder_of("no/body", weights=True)
                )
            one_line(refused.value, SECRET)
    with tally.one("a password in an address"):
        for key, value in (("tokenizer.path", f"https://u:{SECRET}@h/x"), ("data.path", f"https://{SECRET}@h/x.jsonl")):
            with pytest.raises(RuntimeError, match=f"config.{key}: an address with a name or a password in it") as told:
                said_by([CONFIG, f"--config.{key}={value}", f"--workdir={tmp_path / 'never'}"])
            assert SECRET not in str(told.value)
        assert not (tmp_path / "never").exists()


def test_no_setting_is_for_a_secret() -> None:
    for key, _ in leaves(default_config()):
        assert not re.search(r"(^|[._])(api_?key|password|passwd|secret|credentials?|auth|login|access_?token)", key), (
            key
        )
    config = default_config()
    config.ppo.rewards.models = ("https://name:word@host/run:1",)
    with pytest.raises(UserError, match=r"^config\.ppo\.rewards\.models: an address with a name or a password"):
        validate(config)


# ------------------------------------------------------------------------- R25


@pytest.mark.reliability("R25", tries=10)
def test_hostile_text_is_inert_wherever_it_is_shown(tally, whole, tmp_path) -> None:
    """Held to: nothing that a terminal obeys in any output; in pages no tag, attribute or address that is not the
    page's own; in files of JSON lines one object a line."""
    run, said = whole
    with tally.one("console of the run"):
        assert "alert(1)" in said
        assert "[link=" in said  # not taken for markup
        assert not CONTROLS.search(said)
        assert max(map(len, said.splitlines())) < 20_000
    with tally.one("report of the run"):
        see_page(run / "report" / "index.html")
    with tally.one("JSON lines"):
        for path in files_of(run):
            if path.suffix == ".jsonl":
                lines = path.read_bytes().split(b"\n")
                assert not lines[-1]
                assert all(isinstance(json.loads(line), dict) for line in lines[:-1]), path
                assert not re.search(rb"[\x00-\x09\x0b-\x1f]", path.read_bytes()), path
    use = uses(run, tmp_path)
    for name in ("report", "collapse", "evaluate", "labels"):
        with tally.one(name):
            told = said_by(use[name])
            assert not CONTROLS.search(told)
    with tally.one("page of the evaluation"):
        pages = list(tmp_path.rglob("index.html"))
        assert pages
        for page in pages:
            see_page(page, "")  # no completions are in it
    with tally.one("errors"):
        for text in TEXTS:
            with pytest.raises(RuntimeError) as refused:
                said_by(["evaluate", text.replace("\x00", "")])
            told = str(refused.value).removeprefix("ended with 2: ")
            assert told.count("\n") == 1, told
            assert not CONTROLS.search(told)
    with tally.one("an error of 1 MB"):
        with pytest.raises(RuntimeError) as refused:
            said_by(["evaluate", str(run), "--stage=" + "x" * 10**6])
        assert len(str(refused.value)) < 2000
