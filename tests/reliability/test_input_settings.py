"""Command lines and configurations that cannot be run: one line that names the key, and nothing is touched before."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from rlhf_jax import main, run
from rlhf_jax.commands import NAMES
from rlhf_jax.config import default_config, leaves, rule_of
from rlhf_jax.config.explained import settings
from rlhf_jax.sweeps.space import optuna

ROOT = pathlib.Path(__file__).parents[2]
BASE = ["--config=configs/quickstart.py", "--dry_run"]
SETTINGS = settings()
KEYS = {setting.key for setting in SETTINGS}
# Of numbers and texts: what no rule may let pass, if it lets pass not everything.
EXTREMES: dict[str, tuple[str, ...]] = {
    "integer": ("-2", "0", "1", "4294967296"),
    "number": ("-1.0", "0.0", "1.0", "0.5", "1.5"),
    "text": ("nonsense",),
}


def mistakes(setting: Any) -> Iterator[tuple[str, str, str]]:
    """(what, word of the command line, pattern of the message) for one setting, each kind of mistake once."""
    key, word = re.escape(setting.key), f"--config.{setting.key}"
    *groups, leaf = setting.key.split(".")
    swapped = ".".join([*groups, leaf[1:2] + leaf[0] + leaf[2:] + "_"])
    if swapped not in KEYS:
        yield "misspelt", f"--config.{swapped}=1", rf"config\.{re.escape(swapped)}: no such key; did you mean config\."
    yield "a key below it", f"{word}.deeper=1", rf"config\.{key}\.deeper: (no such key|a name with dots)"
    yield "no value", word, rf"config\.{key}: no value given" if setting.kind != "true or false" else ""
    if setting.kind in ("integer", "number"):
        what = {"integer": "an integer", "number": "a number"}[setting.kind]
        yield "a text for a number", f"{word}=many", rf"config\.{key}: 'many' is not {what}"
        yield "nothing for a number", f"{word}=", rf"config\.{key}: '' is not {what}"
        yield "a list for a number", f"{word}=1,2", rf"config\.{key}: '1,2' is not {what}"
    if setting.kind == "integer":
        yield "a fraction for an integer", f"{word}=1.5", rf"config\.{key}: '1.5' is not an integer"
        yield "30 digits", f"{word}={10**30}", rf"config\.{key}: 1000"
    if setting.kind == "number":
        for text in ("nan", "inf", "-inf", "1e999"):
            yield text, f"{word}={text}", rf"config\.{key}: '{text}' is not a finite number"
    if setting.kind == "true or false":
        yield "a number for a truth value", f"{word}=2", rf"config\.{key}: '2' is not true or false"
    if setting.kind == "text":
        yield "a lone surrogate", f"{word}=\udcff{{prompt}}", rf"config\.{key}: .*(not valid Unicode|is not allowed)"
    rule = rule_of(setting.key)
    if setting.choices and setting.kind == "text":
        choice = max((one for one in setting.choices if "FILE" not in one), key=len)
        yield (
            "a misspelt choice",
            f"{word}={choice[:-1]}_",
            rf"config\.{key}: .*must be one of .*; did you mean {choice}\?",
        )
    elif rule is not None:
        read = {"integer": int, "number": float}.get(setting.kind, str)
        out = next((text for text in EXTREMES.get(setting.kind, ()) if not rule.holds(read(text))), None)
        if out is not None:
            yield "out of range", f"{word}={out}", rf"config\.{key}: .* is not allowed, must be {re.escape(rule.text)}"


MISTAKES = [[one for one in mistakes(setting) if one[2]] for setting in SETTINGS]


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the program ends with, with 2."""
    with pytest.raises(SystemExit) as ended:
        main.main(argv)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("rlhf-jax: error: ")
    return err.removeprefix("rlhf-jax: error: ").strip()


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a device fails the test."""

    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("a device was asked for")

    monkeypatch.chdir(ROOT)
    for name in ("devices", "local_devices", "device_count", "process_index", "default_backend"):
        monkeypatch.setattr(jax, name, reached)
    monkeypatch.setattr(run, "make_executor", reached)
    monkeypatch.setattr(run, "open_run", reached)


@pytest.mark.reliability("R11", tries=len(MISTAKES), torture=sum(map(len, MISTAKES)))
def test_every_setting(tally, no_devices, capsys) -> None:
    """Each setting of the schema, mistaken in one way each, at full size in every way there is: refused with its full
    key, with the nearest name where a name was meant.
    """
    if len(tally.tries) > len(MISTAKES):
        tried = [one for kinds in MISTAKES for one in kinds]
    else:
        tried = [kinds[place % len(kinds)] for place, kinds in enumerate(MISTAKES)]
    for what, word, says in tried:
        with tally.one(f"{what}: {word}", within=5):
            said = told([*BASE, word], capsys)
            assert re.match(says, said), said
            for named in re.findall(r"did you mean config\.(\S+)\?", said):
                assert named in KEYS or named.split(".")[1] in ("utility_by_type", "annotator_weights"), said


JSON: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "config: not JSON"),
    "cut": ('{"seed": 1', "config: not JSON"),
    "a comment": ('{"seed": 1} // one', "config: not JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"seed": 1}', "config: not JSON"),
    "no UTF-8": (b'{"log": {"project": "\xff"}}', "config: not UTF-8"),
    "UTF-16": ('{"seed": 1}'.encode("utf-16"), "config: not UTF-8"),
    "bytes 0": (bytes(20), "config: not JSON"),
    "a list": ("[1]", "config: not a JSON object"),
    "null": ("null", "config: not a JSON object"),
    "too deep": ('{"seed": ' + "[" * 100_000, "config: not JSON"),
    "5,000 digits": ('{"seed": ' + "9" * 5000 + "}", "config: not JSON"),
    "400 digits for a number": ('{"ppo": {"clip": 1' + "0" * 400 + "}}", "config.ppo.clip: .* is not a number"),
    "30 digits for an integer": ('{"sft": {"steps": 1' + "0" * 30 + "}}", "config.sft.steps: 1000"),
    "NaN": ('{"ppo": {"clip": NaN}}', "config.ppo.clip: nan is not a finite number"),
    "Infinity": ('{"ppo": {"clip": Infinity}}', "config.ppo.clip: inf is not a finite number"),
    "1e400": ('{"ppo": {"clip": 1e400}}', "config.ppo.clip: inf is not a finite number"),
    "a key twice": ('{"seed": 1, "seed": 2}', "config: seed: given twice"),
    "a key twice inside": ('{"sft": {"steps": 1, "steps": 2}}', "config: steps: given twice"),
    "a misspelt key": ('{"sft": {"stepz": 1}}', "config.sft.stepz: no such key; did you mean config.sft.steps?"),
    "a misspelt group": ('{"stf": {"steps": 1}}', "config.stf: no such key"),
    "an empty key": ('{"": 1}', "config.: no such key"),
    "a dotted key": ('{"sft.steps": 1}', "config: 'sft.steps' has a dot"),
    "a value for a group": ('{"sft": 1}', "config.sft: 1 is not a group of settings"),
    "a group for a value": ('{"seed": {"a": 1}}', "config.seed: .* is not an integer"),
    "a text for an integer": ('{"seed": "1"}', "config.seed: '1' is not an integer"),
    "a truth value for an integer": ('{"seed": true}', "config.seed: True is not an integer"),
    "a fraction for an integer": ('{"seed": 1.0}', "config.seed: 1.0 is not an integer"),
    "null for a text": ('{"data": {"path": null}}', "config.data.path: None is not a text"),
    "a text for a list": ('{"stages": "sft"}', "config.stages: 'sft' is not a list of texts"),
    "numbers in a list": ('{"stages": [1, 2]}', "config.stages: .* is not a list of texts"),
    "lists in a list": ('{"stages": [["sft"]]}', "config.stages: .* is not a list of texts"),
    "a lone surrogate": ('{"log": {"project": "\\ud800"}}', "config.log.project: .* is not valid Unicode"),
    "a lone surrogate in a list": ('{"log": {"trackers": ["\\ud800"]}}', "config.log.trackers: "),
    "a path with a byte 0": ('{"data": {"path": "a\\u0000b"}}', "config.data.path: no such file"),
    "an empty list of stages": ('{"stages": []}', "config.stages: "),
    "stages turned round": ('{"stages": ["ppo", "sft"]}', "config.stages: "),
    "a utility of no type": (
        '{"reward": {"utility_by_type": {"opne": {}}}}',
        "config.reward.utility_by_type.opne: .*open",
    ),
    "a utility that is none": (
        '{"reward": {"utility_by_type": {"open": 1}}}',
        "config.reward.utility_by_type.open: 1 is not",
    ),
    "a weight that is none": (
        '{"reward": {"annotator_weights": {"a": "x"}}}',
        "config.reward.annotator_weights.a: 'x' is",
    ),
    "a weight below 0": ('{"reward": {"annotator_weights": {"a": -1}}}', "config.reward.annotator_weights.a: -1.0 is"),
}
LINES: dict[str, tuple[str, str]] = {
    "ends the program": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "recursion": ("def f(): f()\n    f()", "RecursionError: "),
    "a key of a list": ("config['sft', 'steps'] = 1", "(no such key|TypeError|KeyError)"),
    "a type": ("config.sft.steps = '3'", "TypeError: "),
    "a name": ("config.sft.steps = stepz", "NameError: name 'stepz' is not defined"),
    "tabs": ("\tx = 1", "(TabError|IndentationError): "),
}
SWEEP = ["sweep", "--config=configs/reward_listwise.py", "--workdir=DIR/s", "--dry_run"]
GOOD = "--objective=reward.pair_accuracy:max"
COMMANDS: list[tuple[list[str], str]] = [
    ([], r"--config: missing; name a file"),
    (["--confg=configs/sft.py"], r"--confg: no such option; did you mean --config\?"),
    (["trian"], r"trian: not an option|trian: no such command"),
    (["sweeep"], r"sweeep: no such command; did you mean sweep\?"),
    (["--config=DIR/none.py", "--dry_run"], r"--config: no such file: DIR/none.py"),
    (["--config=DIR", "--dry_run"], r"--config: no such file: DIR"),
    ([*BASE, "--config"], r"--config: no value given"),
    ([*BASE, "--dry_run=perhaps"], r"--dry_run: 'perhaps' is not true or false"),
    ([*BASE, "--workdir="], r"--workdir: no value given"),
    ([*BASE, "--config.=1"], r"config\.: no such key"),
    ([*BASE, "--config..=1"], r"config\.\.: no such key"),
    ([*BASE, "--config.sft=1"], r"config\.sft: a group of settings, not one; its keys are steps|config\.sft: a group"),
    ([*BASE, "--config.sft..steps=1"], r"config\.sft\.\.steps: no such key"),
    ([*BASE, "--config.sft.steps==1"], r"config\.sft\.steps: '=1' is not an integer"),
    ([*BASE, "--config.Sft.Steps=1"], r"config\.Sft\.Steps: no such key; did you mean config\.sft\.steps\?"),
    ([*BASE, "--config.model.path=DIR/none"], r"config\.tokenizer\.kind: word does not give the ids"),
    ([*BASE, "--config.data.path=DIR/none.jsonl"], r"config\.data\.path: no such file or folder: DIR/none.jsonl"),
    ([*BASE, "--config.data.gold=none.py"], r"config\.data\.gold: 'none.py' is not allowed, must be FILE.py:FUNCTION"),
    ([*BASE, "--config.log.trackers=wandbb"], r"config\.log\.trackers: .*wandb, trackio"),
    ([*BASE, "--config.stages=sft,sft"], r"config\.stages: "),
    ([*BASE, "--config.stages=ppo"], r"config\.parents\.sft: empty, but ppo starts from a checkpoint of sft"),
    (
        [*BASE, "--config.stages=reward,ppo", "--config.parents.sft=DIR/x"],
        r"config\.parents\.sft: no such run directory",
    ),
    ([*BASE, "--config.parents.sft=DIR"], r"config\.parents\.sft: DIR would go unused"),
    ([*BASE, "--config.reward.init=reward"], r"config\.parents\.reward_start: empty"),
    ([*BASE, "--config.ppo.minibatches=7"], r"config\.ppo\.minibatches: 7"),
    ([*BASE, "--config.model.heads=3"], r"config\.model\.(kv_heads|width): "),
    ([*BASE, "--config.data.max_response=2000"], r"config\.(model\.max_positions|sft\.row_length): "),
    ([*SWEEP, GOOD], r"sweep: nothing to sweep over"),
    (
        [*SWEEP, GOOD, "--sweep.reward.utility.gama=1,2"],
        r"config\.reward\.utility\.gama: no such key; did you mean .*gamma\?",
    ),
    ([*SWEEP, GOOD, "--sweep.reward.utility.gamma=1,x"], r".*reward\.utility\.gamma: 'x' is not a number"),
    ([*SWEEP, GOOD, "--sweep.reward.utility.gamma=0.1,nan"], r".*reward\.utility\.gamma: 'nan' is not a finite number"),
    (
        [*SWEEP, GOOD, "--sweep.reward.utility.gamma=0.1,0.1"],
        r"--sweep\.reward\.utility\.gamma: .* a value is there twice",
    ),
    ([*SWEEP, GOOD, "--sweep.reward.utility.gamma=log:0:1"], r"--sweep\.reward\.utility\.gamma: .*must begin above 0"),
    ([*SWEEP, GOOD, "--sweep.reward.utility.gamma=uniform:2:1"], r"--sweep\.reward\.utility\.gamma: .*LOW:HIGH"),
    (
        [*SWEEP, GOOD, "--sweep.reward.utility.gamma=uniform:0:1e999"],
        r".*reward\.utility\.gamma: '1e999' is not a finite",
    ),
    ([*SWEEP, GOOD, "--sweep.reward.utility.gamma=-1,0.5"], r"sweep: the point .*config\.reward\.utility\.gamma: "),
    ([*SWEEP, GOOD, "--sweep.stages=sft"], r"--sweep\.stages: config\.stages is a list of texts"),
    ([*SWEEP, GOOD, "--sweep.reward.steps="], r"--sweep\.reward\.steps: no values given"),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--sweep.reward.steps=3"], r"--sweep\.reward\.steps: given twice"),
    ([*SWEEP, "--sweep.reward.steps=1,2"], r"--objective: missing"),
    ([*SWEEP, "--sweep.reward.steps=1,2", "--objective=reward.loss"], r"--objective: reward.loss: must be NAME:max"),
    ([*SWEEP, "--sweep.reward.steps=1,2", "--objective=rewrd.loss:min"], r"--objective: .*did you mean reward\?"),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--seeds=1,x"], r"--seeds: '1,x' is not a list of whole numbers"),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--seeds=-1"], r"--seeds: '-1' is not"),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--seeds=²"], r"--seeds: '²' is not"),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--points=5"], r"--points: a grid has the points that it has"),
    (
        [*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--sampler=tpee"],
        r"--sampler: 'tpee' is not one of .*did you mean tpe\?",
    ),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--failures=nan"], r"--failures: 'nan' is not a share from 0 to 1"),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--workers=0"], r"--workers: '0' is not a whole number from 1"),
    ([*SWEEP, GOOD, "--sweep.reward.steps=1,2", "--lease=inf"], r"--lease: 'inf' is not a number of seconds from 1"),
    ([*SWEEP, GOOD, "--space=DIR/none.py"], r"--space: no such file: DIR/none.py"),
    (["sweep", "DIR/none"], r".*DIR/none"),
    (["sweep"], r"sweep: name a folder to go on with"),
    (["theory", "--utility=powr:0.5", "--n=8"], r".*powr.*"),
    (["theory", "--utility=power:2", "--n=8"], r".*"),
    (["theory", "--utility=power:nan", "--n=8"], r".*"),
    (["theory", "--utility=log", "--n=1"], r".*n.*"),
    (["theory", "--utility=log", "--tiers=2,0"], r".*tiers.*"),
    (["theory", "--utilty=log"], r".*--utilty: no such option; did you mean --utility\?|.*--utilty.*"),
    (["collapse"], r".*"),
    (["collapse", "DIR/none"], r".*DIR/none"),
    (["evaluate", "DIR/none"], r".*DIR/none"),
    (["best-of-n", "DIR/none", "--n=4"], r".*DIR/none"),
    (["best-of-n", "DIR/none", "--n=0"], r".*n.*"),
    (["labels", "DIR/none.jsonl"], r".*"),
    (["prepare", "DIR/none.jsonl", "--out=DIR/p"], r"DIR/none.jsonl: file: cannot be read"),
    (["prepare", "DIR/none.jsonl"], r".*--out"),
    (["prepare", "DIR/none.jsonl", "--out=DIR/p", "--on_bad_row=ignore"], r".*on_bad_row.*'ignore'"),
    (["prepare", "DIR/none.jsonl", "--out=DIR/p", "--format=hhh"], r".*format.*'hhh'"),
    (["prepare", "DIR/none.jsonl", "--out=DIR/p", "--tie_margin=nan"], r".*tie_margin"),
    (["export", "DIR/none", "--stage=reward", "--out=DIR/e"], r".*DIR/none"),
    (["plan", "--config=DIR/none.py"], r".*DIR/none.py"),
    (
        ["plan", *BASE[:1], "--config.sft.stepz=1"],
        r"config\.sft\.stepz: no such key; did you mean config\.sft\.steps\?",
    ),
    (["report", "DIR/none"], r".*DIR/none"),
    (["completion", "csh"], r".*csh"),
    (["chat", "DIR/none"], r".*DIR/none"),
]


@pytest.mark.reliability("R11", tries=len(JSON) + len(LINES) + len(COMMANDS))
def test_files_and_commands(tally, no_devices, capsys, tmp_path) -> None:
    """Configurations in files, and the words of every command, mistaken in each of the ways a person or a broken disk
    does it. Whatever is said names the file, the key or the option.
    """
    for name in NAMES:  # loaded here, so that what is timed is the program
        importlib.import_module(f"rlhf_jax.commands.{name.replace('-', '_')}")
    optuna()
    path = tmp_path / "config.json"
    for what, (text, says) in JSON.items():
        with tally.one(f"JSON, {what}", within=5):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            said = told([f"--config={path}", "--dry_run"], capsys)
            assert re.match(rf"({re.escape(str(path))}: )?{says.replace('?', '.')}", said), said
    path = tmp_path / "mine.py"
    for what, (lines, says) in LINES.items():
        with tally.one(f"a file that {what}", within=5):
            head = "from rlhf_jax.config import default_config\ndef get_config():\n    config = default_config()\n"
            path.write_text(f"{head}    {lines}\n    return config\n")
            said = told([f"--config={path}", "--dry_run"], capsys)
            assert re.match(rf"{re.escape(str(path))}:\d+: {says}", said), said
    for words, says in COMMANDS:
        with tally.one(" ".join(words), within=5):
            here = str(tmp_path)
            said = told([word.replace("DIR", here) for word in words], capsys)
            assert re.match(says.replace("DIR", re.escape(here)), said), said
    assert {one.name for one in tmp_path.iterdir()} == {"config.json", "mine.py"}  # nothing was begun


CHILD = """
import json, sys, time
import jax._src.xla_bridge as bridge
from rlhf_jax.main import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit as ended:
    print(ended.code, bridge.backends_are_initialized())
"""


@pytest.mark.reliability("R11", tries=8)
def test_as_processes(tally, tmp_path) -> None:
    """The same in processes of their own, which the operating system sees end with 2, no backend of XLA initialised. A
    folder of weights alone is looked for when processes have met, which takes devices; still nothing is written.
    """
    broken = tmp_path / "config.json"
    broken.write_text('{"\\ud800": 1}')
    for words in (
        ["--config.sft.stepz=1"],
        ["--config.ppo.clip=nan"],
        ["--config.stages=ppo"],
        ["--config.data.path=none.jsonl"],
        ["--config.model.path=/none", "--config.tokenizer.kind=pretrained"],
        ["--config.log.trackers=trackioo"],
        [f"--config={broken}"],
        ["--config.reward.utility.name=none.py:Mine"],
    ):
        with tally.one(" ".join(words)):
            command = [sys.executable, "-X", "faulthandler", "-c", CHILD, repr([*BASE, *words]).replace("'", '"')]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
            assert done.stdout.split() == ["2", str("model.path" in words[0])], done.stdout
            assert done.stderr.startswith("rlhf-jax: error: ")
            assert done.stderr.count("\n") == 1


def _words(path: pathlib.Path) -> set[str]:
    """Names of attributes that a file reads, and its texts."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    return read | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.reliability("R11", tries=len(SETTINGS))
def test_every_key_is_read(tally) -> None:
    """Each key of the schema is named by some code that is not the schema's own."""
    package = ROOT / "rlhf_jax"
    others = [one for one in package.rglob("*.py") if one.relative_to(package).parts[0] not in ("config", "help.py")]
    words = set().union(*map(_words, others))
    for key, _ in leaves(default_config()):
        with tally.one(key):
            assert key.rpartition(".")[2] in words
