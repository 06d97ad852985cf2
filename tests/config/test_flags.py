"""The command line: what it sets, and that every mistake is one line naming what was meant."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlhf_jax.commands import NAMES
from rlhf_jax.config import default_config, to_json
from rlhf_jax.errors import UserError
from rlhf_jax.flags import Launch, parse
from rlhf_jax.help import help_text

ROOT = Path(__file__).parents[2]
BASE = ["--config=configs/quickstart.py", "--workdir=runs/a"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def error(argv: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        parse(argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def get(config: ConfigDict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def test_a_launch_is_config_workdir_and_overrides() -> None:
    launch = parse([*BASE, "--config.sft.steps=5", "--config.seed", "3"])
    assert isinstance(launch, Launch)
    assert (launch.workdir, launch.dry_run) == ("runs/a", False)
    assert launch.overrides == ["config.sft.steps=5", "config.seed=3"]
    assert launch.config.is_locked
    assert launch.config.stages == ("sft", "reward", "reward_common", "ppo")


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--config.sft.steps=5"], "sft.steps", 5),
        (["--config.sft.steps", "5"], "sft.steps", 5),
        (["--config.sft.optimizer.learning_rate=1e-3"], "sft.optimizer.learning_rate", 1e-3),
        (["--config.ppo.gamma=1"], "ppo.gamma", 1.0),
        (["--config.ppo.missing_eos.score", "-2"], "ppo.missing_eos.score", -2.0),
        (["--config.parallel.data", "-1"], "parallel.data", -1),
        (["--config.ppo.normalize_reward"], "ppo.normalize_reward", True),
        (["--config.ppo.normalize_reward=true"], "ppo.normalize_reward", True),
        (["--noconfig.log.tensorboard"], "log.tensorboard", False),
        (["--config.log.tensorboard=false"], "log.tensorboard", False),
        (["--config.log.tensorboard=False"], "log.tensorboard", False),
        (["--config.data.template=a = {prompt}, b"], "data.template", "a = {prompt}, b"),
        (["--config.reward.utility.name=log"], "reward.utility.name", "log"),
        (["--config.stages=sft"], "stages", ("sft",)),
        (["--config.stages=sft,reward"], "stages", ("sft", "reward")),
        (["--config.stages", "('sft', 'reward')"], "stages", ("sft", "reward")),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
        (["--config.reward.annotator_weights.hasty=0.5"], "reward.annotator_weights.hasty", 0.5),
        (["--config.reward.annotator_weights.jane-doe", "2"], "reward.annotator_weights.jane-doe", 2.0),
        (["--config.reward.weights.scores=1"], "reward.weights.scores", 1.0),
        (["--config.data.feedback=labels"], "data.feedback", "labels"),
    ],
)
def test_overrides_are_typed(words: list[str], key: str, value: object) -> None:
    for argv in ([*BASE, *words], [*words, *BASE]):  # the order is free
        found = get(parse(argv).config, key)
        assert found == value
        assert type(found) is type(value)


def test_a_new_prompt_type_starts_as_a_copy_of_the_common_utility() -> None:
    words = ["--config.reward.utility_by_type.open.name=log", "--config.reward.utility.epsilon=0.3"]
    for order in (words, words[::-1]):
        reward = parse([*BASE, *order]).config.reward
        assert reward.utility_by_type.open.to_dict() == {**reward.utility.to_dict(), "name": "log"}
        assert reward.utility_by_type.open.epsilon == 0.3
        assert reward.utility.name == "negative_power"
        assert reward.utility_by_type.closed.name == "power"


def test_a_prompt_type_of_a_file_may_be_any_word(tmp_path: Path) -> None:
    data = tmp_path / "lists.jsonl"
    data.write_text("{}\n")
    argv = ["--config=configs/lists_file.py", "--dry_run", f"--config.data.path={data}"]
    config = parse([*argv, "--config.reward.utility_by_type.creative-writing.sigma=2"]).config
    assert config.reward.utility_by_type["creative-writing"].sigma == 2.0


MISTAKES = [
    ("--config.reward.utility.gama=2", "config.reward.utility.gama: ", "did you mean config.reward.utility.gamma?"),
    ("--config.sft.lr=2", "config.sft.lr: ", "did you mean config.sft.optimizer.learning_rate?"),
    ("--config.sft.optimizer.lr=2", "config.sft.optimizer.lr: ", "did you mean config.sft.optimizer.learning_rate?"),
    ("--config.ppo.kl_coefficient=1", "config.ppo.kl_coefficient: ", "did you mean config.ppo.kl.coefficient?"),
    ("--config.ppo.learning_rate=1", "config.ppo.learning_rate: ", "config.ppo.optimizer.learning_rate?"),
    ("--config.batch_size=1", "config.batch_size: ", "did you mean config.sft.batch_size?"),
    ("--config.reward.utility=log", "config.reward.utility: ", "its keys are a, b, epsilon, extension, gamma, name"),
    (
        "--config.reward.annotator_weights.hasty=much",
        "config.reward.annotator_weights.hasty: 'much' is not a number",
        "",
    ),
    ("--config.reward.annotator_weights.hasty=-1", "config.reward.annotator_weights.hasty: -1.0 is not", "at least 0"),
    ("--config.reward.annotator_weights.a@b.org=1", "config.reward.annotator_weights.a@b.org: a name with dots", ""),
    ("--config.reward.annotator_weights=1", "config.reward.annotator_weights: a group", "<"),
    ("--config.reward.weigths.scores=1", "config.reward.weigths.scores: no such key", "config.reward.weights.scores?"),
    ("--config.reward.utility_by_type.open=log", "config.reward.utility_by_type.open: ", "name"),
    ("--config.reward.utility_by_type.open.gama=1", "config.reward.utility_by_type.open.gama: ", "open.gamma?"),
    ("--config.reward.utility_by_type.opne.gamma=1", "config.reward.utility_by_type.opne: ", "did you mean open?"),
    ("--config.sft.steps=1e3", "config.sft.steps: '1e3' is not an integer", ""),
    ("--config.sft.steps=2.5", "config.sft.steps: '2.5' is not an integer", ""),
    ("--config.sft.steps=None", "config.sft.steps: 'None' is not an integer", ""),
    ("--config.sft.steps=", "config.sft.steps: '' is not an integer", ""),
    ("--config.sft.steps", "config.sft.steps: no value given", ""),
    ("--config.ppo.clip=small", "config.ppo.clip: 'small' is not a number", ""),
    ("--config.ppo.clip=nan", "config.ppo.clip: 'nan' is not a finite number", ""),
    ("--config.ppo.clip=-inf", "config.ppo.clip: '-inf' is not a finite number", ""),
    ("--config.ppo.clip=1e999", "config.ppo.clip: '1e999' is not a finite number", ""),
    ("--config.log.tensorboard=maybe", "config.log.tensorboard: 'maybe' is not true or false", ""),
    ("--noconfig.sft.steps", "config.sft.steps: ", "true/false"),
    ("--noconfig.log.tensorbord", "config.log.tensorbord: ", "did you mean config.log.tensorboard?"),
    ("--config.stages=stf", "config.stages: ", "did you mean sft?"),
    ("--config.reward.utility.name=powr", "config.reward.utility.name: 'powr'", "did you mean power?"),
    ("--config.ppo.minibatches=3", "config.ppo.minibatches: 3", "128"),
    ("config.lr=0.5", "config.lr=0.5: not an option; did you mean --config.lr=0.5?", ""),
    ("-config.seed=1", "-config.seed=1: not an option; did you mean --config.seed=1?", ""),
    ("false", "false: not an option", "--config.KEY=VALUE"),
    ("a\n\x1b[31mb\udcff\u2028", r"a\n\x1b[31mb\udcff\u2028: not an option", "--config.KEY=VALUE"),
    ("--sft.steps=3", "--sft.steps: no such option; did you mean --config.sft.steps=3?", ""),
    ("--confg.sft.steps=3", "--confg.sft.steps: no such option; did you mean --config.sft.steps=3?", ""),
    ("--wrokdir=a", "--wrokdir: no such option; did you mean --workdir?", ""),
    ("--dry-run", "--dry-run: no such option; did you mean --dry_run?", ""),
    ("--flagfile=a", "--flagfile: no such option", "--config.KEY"),
    ("--workdir=", "--workdir: no value given", ""),
    ("--config=configs/quickstrat.py", "--config: no such file", "did you mean configs/quickstart.py?"),
    ("--config=ppo", "--config: no such file", "did you mean configs/ppo.py?"),
    ("--config=zzz", "--config: no such file: zzz; there are configs/", "configs/sft.py"),
    ("--config=configs/sft.py:x", "--config: get_config of configs/sft.py takes no argument", "'x'"),
    ("--config=pyproject.toml", "--config: pyproject.toml is neither a .py", ".json"),
]


@pytest.mark.parametrize(("word", "start", "says"), MISTAKES)
def test_a_mistake_is_one_line_naming_what_was_meant(word: str, start: str, says: str) -> None:
    message = error([*BASE, word])
    assert message.startswith(start)
    assert says in message


def test_what_is_required_is_asked_for() -> None:
    assert error(["--workdir=runs/a"]).startswith("--config: missing; name a file; there are configs/")
    assert error(["--config=configs/sft.py"]).startswith("--workdir: missing")
    assert error(["--config=configs/sft.py", "--workdir", "--dry_run"]) == "--workdir: no value given"
    assert parse(["--config=configs/sft.py", "--dry_run"]).workdir == ""


def test_a_run_directory_in_place_of_its_config_is_understood(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert error([f"--config={tmp_path}", "--dry_run"]).endswith(f"did you mean {tmp_path / 'config.json'}?")


def test_the_config_of_a_run_runs_again(tmp_path: Path) -> None:
    first = parse([*BASE, "--config.seed=5", "--config.reward.utility_by_type.open.name=log"]).config
    saved = tmp_path / "config.json"
    saved.write_text(to_json(first))
    again = parse([f"--config={saved}", "--workdir=runs/b", "--config.sft.steps=7"]).config
    assert again.to_dict() == {**first.to_dict(), "sft": {**first.sft.to_dict(), "steps": 7}}


FILES = {
    "locked": ("config.sft.stepz = 3", ":4: no such key 'stepz'; did you mean steps?"),
    "type": ("config.sft.steps = 3.5", ":4: TypeError: "),
    "raises": ("1 / 0", ":4: ZeroDivisionError: division by zero"),
    "syntax": ("config.sft.steps = (", ":4: SyntaxError: "),
    "nothing": ("return None", ": get_config returned NoneType, not a ConfigDict"),
    "imports": ("import no_such_module", ":4: ModuleNotFoundError: No module named 'no_such_module'"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_config_file_is_one_line_with_its_place(name: str, tmp_path: Path) -> None:
    line, says = FILES[name]
    path = tmp_path / "mine.py"
    path.write_text(
        "from rlhf_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    {line}\n"
        "    return config\n"
    )
    assert error([f"--config={path}", "--dry_run"]).startswith(f"{path}{says}")


def test_a_config_file_without_get_config_or_with_its_own_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    assert error([f"--config={path}", "--dry_run"]) == f"{path}: defines no function get_config"
    path.write_text("from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'lr': 1.0})\n")
    assert error([f"--config={path}", "--dry_run"]).startswith("config.lr: no such key")


def test_references_between_settings_follow_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from rlhf_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.ppo.value_learning_rate = config.ppo.optimizer.get_ref('learning_rate') * 2\n"
        "    return config\n"
    )
    config = parse([f"--config={path}", "--dry_run", "--config.ppo.optimizer.learning_rate=0.25"]).config
    assert config.ppo.value_learning_rate == 0.5
    assert json.loads(to_json(config))["ppo"]["value_learning_rate"] == 0.5


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_every_config_file_loads_and_can_run(path: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}\n")
    parents = [f"--config.parents.sft={tmp_path}", f"--config.parents.reward={tmp_path}"]
    given = {
        **dict.fromkeys(("dpo", "online", "ppo", "ppo_nplus", "ppo_ziegler"), parents),
        "lists_file": [f"--config.data.path={tmp_path / 'data.jsonl'}"],
        "hh_file": [f"--config.data.path={tmp_path / 'data.jsonl'}"],
    }.get(path.stem, [])
    relative = path.relative_to(ROOT)
    assert parse([f"--config={relative}", "--dry_run", *given]).config.stages
    text = path.read_text()
    assert f"--config={relative}" in text
    assert 15 <= len(text.splitlines()) <= 60
    if given:  # and without what the file says is needed, the message asks for it
        assert given[0].split("=")[0].removeprefix("--") in error([f"--config={relative}", "--dry_run"])


def test_the_argument_after_the_colon_reaches_get_config() -> None:
    assert parse(["--config=configs/reward_listwise.py:log", "--dry_run"]).config.reward.utility.name == "log"
    assert parse(["--config=configs/reward_listwise.py", "--dry_run"]).config.reward.utility.name == "negative_power"
    assert "'lgo'" in error(["--config=configs/reward_listwise.py:lgo", "--dry_run"])


def test_the_quickstart_is_prompt_aware() -> None:
    reward = parse(BASE).config.reward
    assert reward.utility.to_dict() == default_config().reward.utility.to_dict()
    assert {kind: u.name for kind, u in reward.utility_by_type.items()} == {"closed": "power"}


def test_help_lists_examples_that_parse_and_every_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.strip() == help_text().strip()
    examples = [line.split()[3:] for line in text.splitlines() if line.startswith("  python -m rlhf_jax")]
    assert len(examples) == 3
    for argv in examples:
        if "runs/a/config.json" not in argv[0]:
            parse(argv)
    assert all(str(path.relative_to(ROOT)) in text for path in (ROOT / "configs").glob("*.py"))
    assert all(f"\n  {name} " in text for name in NAMES)


def modules_after(code: str) -> set[str]:
    """Every module that a fresh interpreter has loaded after ``code``."""
    told = f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HELP = "from rlhf_jax.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"


@pytest.mark.parametrize(
    ("code", "most"),
    [("import rlhf_jax", 120), (f"import rlhf_jax.flags as f\nf.parse({BASE!r})", 320), (HELP, 320)],
    ids=["import", "parse", "help"],
)
def test_what_is_there_at_once_has_loaded_little(code: str, most: int) -> None:
    """A tenth of a second of CPU and 213 modules for ``--help``, where jax alone takes half a second and 640 more."""
    loaded = modules_after(code)
    assert not loaded & {"jax", "flax", "optax", "orbax", "grain", "numpy", "scipy", "transformers", "matplotlib"}
    assert len(loaded) <= most
