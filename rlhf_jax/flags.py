"""The command line of a run: a config file, typed overrides of its settings, a run directory.

Values are parsed by ml_collections' flags; keys, types and leftovers are looked at here first, so that every mistake is
one line that names the key and its nearest neighbour. Nothing here imports JAX.
"""

import contextlib
import copy
import dataclasses
import difflib
import functools
import inspect
import math
import re
import runpy
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from rlhf_jax import __version__
from rlhf_jax.config import (
    check_code_is_named,
    check_keys,
    default_config,
    did_you_mean,
    from_json,
    lock,
    type_name,
    unknown_key,
    utility,
    validate,
)
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import check_run, one_line
from rlhf_jax.help import explain, help_text

_OPTIONS = ("--config", "--workdir", "--dry_run", "--help", "--version")
_BY_TYPE = "reward.utility_by_type."
_ANNOTATORS = "reward.annotator_weights."


@dataclasses.dataclass(frozen=True)
class Launch:
    """What the command line asked for.

    ``config`` is validated and locked; ``workdir`` is empty only in a dry run that named none. ``overrides`` are the
    ``config.KEY=VALUE`` given, in their order, as text.
    """

    config: ConfigDict
    workdir: str
    dry_run: bool
    overrides: list[str]


def parse(argv: Sequence[str]) -> Launch:
    """Read a command line, without the program's name.

    Raises:
      UserError: one line, for anything that cannot be run.
      SystemExit: with code 0 after printing the help or the version, if it was asked for.
    """
    options, overrides = _split(argv)
    if "version" in options:
        print(f"rlhf_jax {__version__}")
        raise SystemExit(0)
    if "help" in options:
        print(explain(options["help"]) if options["help"] else help_text())
        raise SystemExit(0)
    if "config" not in options:
        raise UserError(f"--config: missing; name a file{_configs_hint()}")
    if not options.get("workdir") and "dry_run" not in options:
        raise UserError("--workdir: missing; name the run directory, for example --workdir=runs/a (or add --dry_run)")
    config = load(options["config"])
    if options["config"].endswith(".json"):
        check_code_is_named(config, overrides)
    apply(config, overrides)
    given = [f"config.{key}={text}" for key, text in overrides]
    return Launch(config, options.get("workdir", ""), "dry_run" in options, given)


# ------------------------------------------------------------------------- words to options


def _split(argv: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The program's options by name, and the overrides as pairs of dotted key and text."""
    options: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            _leftover(word)
        elif name == "version" and not equals:
            options["version"] = ""
        elif name in ("help", "helpfull", "helpshort"):
            asked = [text] if text else words[:1] if words and words[0].startswith("--config.") else []
            del words[: 0 if text else len(asked)]
            while words and not words[0].startswith("--"):  # several words are one question
                asked.append(words.pop(0))
            options["help"] = " ".join(asked)
        elif name in ("dry_run", "nodry_run"):
            wanted = _boolean(f"--{name}", text if equals else "true") == (name == "dry_run")
            options.pop("dry_run", None)
            options |= {"dry_run": "true"} if wanted else {}
        elif name in ("config", "workdir"):
            options[name] = text if equals else _next(words, f"--{name}")
            if not options[name]:
                raise UserError(f"--{name}: no value given")
        elif name.startswith("noconfig.") and not equals:
            key = name.removeprefix("noconfig.")
            if not isinstance(default_of(key), bool):
                raise UserError(f"config.{key}: only true/false settings can be negated; use --config.{key}=VALUE")
            overrides.append((key, "false"))
        elif name.startswith("config."):
            key = name.removeprefix("config.")
            if not equals:
                text = "true" if isinstance(default_of(key), bool) else _next(words, f"config.{key}")
            overrides.append((key, text))
        else:
            _unknown_option(name, f"{equals}{text}")
    return options, overrides


def _next(words: list[str], name: str) -> str:
    if not words or words[0].startswith("--"):
        raise UserError(f"{name}: no value given")
    return words.pop(0)


def _boolean(name: str, text: str) -> bool:
    try:
        return bool(flags.BooleanParser().parse(text))
    except ValueError:
        raise UserError(f"{name}: {text!r} is not true or false") from None


def _leftover(word: str) -> NoReturn:
    bare = word.lstrip("-")
    is_option = bare.split("=")[0].split(".")[0] in ("config", "workdir", "dry_run", "help")
    hint = f"; did you mean --{bare}?" if is_option else "; settings are given as --config.KEY=VALUE"
    raise UserError(f"{word}: not an option{hint}")


def _unknown_option(name: str, rest: str) -> NoReturn:
    hint = did_you_mean(f"--{name}", _OPTIONS) or f"; the options are {', '.join(_OPTIONS)} and --config.KEY"
    for key in (name, name.partition(".")[2]):  # config. left out, or misspelt
        with contextlib.suppress(UserError):
            default_of(key)
            hint = f"; did you mean --config.{key}{rest}?"
    raise UserError(f"--{name}: no such option{hint}")


# ------------------------------------------------------------------------- one override


def default_of(key: str) -> Any:
    """The default of a setting by its dotted key; any word stands for a prompt type or an annotator."""
    node: Any = default_config()
    parts = key.split(".")
    if key.startswith(_BY_TYPE) and parts[2]:
        node.reward.utility_by_type[parts[2]] = utility("log")
    if key.startswith(_ANNOTATORS) and len(parts) > 3:
        raise UserError(f"config.{key}: a name with dots cannot be a key; give the annotator another in the data")
    if key.startswith(_ANNOTATORS) and parts[2]:
        node.reward.annotator_weights[parts[2]] = 1.0
    for part in parts:
        if not isinstance(node, ConfigDict) or part not in node:
            raise unknown_key(key)
        node = node[part]
    if isinstance(node, ConfigDict):
        inner = list(node) or ["<annotator>" if key in _ANNOTATORS else "<prompt type>.name"]
        raise UserError(f"config.{key}: a group of settings, not one; its keys are {', '.join(inner)}")
    return node


def apply(config: ConfigDict, overrides: Iterable[tuple[str, str]]) -> None:
    """Set the settings of these pairs of dotted key and text, then validate and lock the whole."""
    # A new prompt type starts as a copy of reward.utility, so that one is settled first.
    for key, text in sorted(overrides, key=lambda pair: pair[0].startswith(_BY_TYPE)):
        override(config, key, text)
    validate(lock(config))


def override(config: ConfigDict, key: str, text: str) -> None:
    """Set the setting ``key`` (dotted, without ``config.``) to ``text`` read as the type of its default."""
    default = default_of(key)
    if key.startswith(_BY_TYPE):
        kinds, kind = config.reward.utility_by_type, key.split(".")[2]
        if kind not in kinds:
            kinds[kind] = copy.deepcopy(config.reward.utility)
    plain = text
    if isinstance(default, tuple):  # sft,reward and ("sft", "reward") alike
        plain = repr(tuple(part.strip(" '\"") for part in text.strip("()[] ").split(",") if part.strip(" '\"")))
    *groups, leaf = key.split(".")
    group = functools.reduce(ConfigDict.__getitem__, groups, config)  # a prompt type may be any word, flags' paths not
    if key.startswith(_ANNOTATORS):  # nor may an annotator
        name, leaf, group = leaf, "weight", ConfigDict({"weight": default})
    values, word = flags.FlagValues(), f"--config.{leaf}={plain}"
    config_flags.DEFINE_config_dict("config", group, flag_values=values, lock_config=False, sys_argv=["", word])
    try:
        values(["", word])
    except (flags.Error, ValueError, TypeError):
        raise UserError(f"config.{key}: {text!r} is not {type_name(default)}") from None
    if isinstance(default, float) and not math.isfinite(float(text)):
        raise UserError(f"config.{key}: {text!r} is not a finite number")
    if key.startswith(_ANNOTATORS):
        config.reward.annotator_weights[name] = group.weight


# ------------------------------------------------------------------------- config files


def load(name: str) -> ConfigDict:
    """The config of ``FILE.py``, ``FILE.py:ARG`` (ARG is handed to its ``get_config``) or ``FILE.json``."""
    path, colon, arg = (name, "", "") if Path(name).is_file() else name.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config: no such file: {path}{_configs_hint(path)}")
    if Path(path).name == "config.json":
        check_run(Path(path).parent)
    if path.endswith(".json"):
        try:
            return from_json(Path(path).read_text(encoding="utf-8"))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: config: not UTF-8 at byte {error.start}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not path.endswith(".py"):
        raise UserError(f"--config: {path} is neither a .py file with get_config() nor a .json file")
    get_config = guarded(path, lambda: runpy.run_path(path)).get("get_config")
    if not callable(get_config):
        raise UserError(f"{path}: defines no function get_config")
    if colon and not inspect.signature(get_config).parameters:
        raise UserError(f"--config: get_config of {path} takes no argument, but {arg!r} was given")
    config = guarded(path, lambda: get_config(arg) if colon else get_config())
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned {type(config).__name__}, not a ConfigDict")
    check_keys(config)
    return config


def guarded(path: str, run: Callable[[], Any]) -> Any:
    """The result of ``run``, or its exception as one line with the line of ``path`` it came from."""
    try:
        return run()
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        here = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno or 1 if isinstance(error, SyntaxError) else (here or [1])[-1]
        raise UserError(f"{path}:{line}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    missing = re.search(r'Key "(.+?)" does not exist', str(error))  # of a locked ConfigDict, which prints itself whole
    if missing:
        near = re.search(r'Did you mean "(.+?)" instead', str(error))
        return f"no such key {missing[1]!r}" + (f"; did you mean {near[1]}?" if near else "")
    text = one_line(str(error))
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _config_files() -> list[Path]:
    return sorted(Path("configs").glob("*.py"))


def _configs_hint(path: str = "") -> str:
    if (Path(path) / "config.json").is_file():
        return f"; did you mean {Path(path) / 'config.json'}?"
    files = {file.stem: str(file) for file in _config_files()}
    near = difflib.get_close_matches(Path(path).stem, files, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {files[near[0]]}?"
    return f"; there are {', '.join(files.values())}" if files else ", for example configs/quickstart.py"
