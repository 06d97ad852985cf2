"""``rlhf-jax completion``: what a shell needs to complete the words of a command line.

The script that is printed holds every command, option and setting, so that completing starts no Python. Settings are
completed group by group, those with a choice by their values. zsh runs the function of bash, fish has its own form.
"""

import ast
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from rlhf_jax.commands import NAMES
from rlhf_jax.config.explained import KINDS, Setting, settings
from rlhf_jax.config.names import STAGES
from rlhf_jax.config.rules import did_you_mean
from rlhf_jax.errors import UserError
from rlhf_jax.help import HELP

_HELP = """Completion of commands, options, config files and settings by the shell.

usage: rlhf-jax completion bash|zsh|fish

In the file that your shell reads at its start:
  source <(rlhf-jax completion bash)      ~/.bashrc
  source <(rlhf-jax completion zsh)       ~/.zshrc, after compinit
  rlhf-jax completion fish | source       ~/.config/fish/config.fish

What is printed belongs to this version: after an upgrade a new shell has the new settings."""

# Answers in whole words, less what comes before the last character at which the shell itself breaks words.
_BASH = r"""_rlhf_jax_files() {
  local word
  for word in "$1"*; do
    if [ -d "$word" ]; then echo "$word/"; elif [ -e "$word" ]; then echo "$word"; fi
  done
}

_rlhf_jax_values() {
  case "$1" in
@VALUES@
    @PATHS@) _rlhf_jax_files "$2" ;;
  esac
}

_rlhf_jax_choices() {
  case "$1" in
@CHOICES@
  esac
}

_rlhf_jax_options() {
  case "$1" in
@OPTIONS@
    *) echo '@RUN@' ;;
  esac
}

_rlhf_jax() {
  local line="${COMP_LINE:0:$COMP_POINT}" current before first="" option text keys word rest found="" kept=""
  current="${line##*[[:space:]]}"
  before="${line%"$current"}"
  before="${before%"${before##*[![:space:]]}"}"
  before="${before##*[[:space:]]}"
  option="${current%%=*}" text="${current#*=}"
  set -- $line
  [ "$#" -gt 1 ] && first="$2"
  case "$current" in
    --config.*=*)
      rest=""
      [ "$option" = --config.stages ] && case "$text" in *,*) rest="${text%,*}," ;; esac
      for word in $(_rlhf_jax_values "${option#--config.}" "$text"); do found="$found $option=$rest$word"; done ;;
    --*=*)
      for word in $(_rlhf_jax_choices "$first:$option"); do found="$found $option=$word"; done
      [ -z "$found" ] &&
      for word in $(_rlhf_jax_files "$text"); do
        case "$option:$word" in
          *:*/|--config:*.py|--config:*.json) ;;
          --config:*|--workdir:*) continue ;;
        esac
        found="$found $option=$word"
      done ;;
    --config.*|--noconfig.*)
      keys='@KEYS@'
      [ "${current%%.*}" = --noconfig ] && keys='@SWITCHES@'
      for word in $keys; do
        word="${current%%.*}.$word"
        case "$word" in "$current"*) ;; *) continue ;; esac
        rest="${word#"$current"}"
        case "$rest" in
          *.*) word="$current${rest%%.*}." ;;
          *) [ "${current%%.*}" = --config ] && word="$word=" ;;
        esac
        case " $found " in *" $word "*) ;; *) found="$found $word" ;; esac
      done ;;
    -*) found="$(_rlhf_jax_options "$first")" ;;
    "$first") found='@COMMANDS@ --config= --help' ;;
    *)
      if [ "$before" = --help ] || [ "$before" = -h ]; then
        for word in @KEYS@; do
          case "$word" in "$current"*) ;; *) continue ;; esac
          rest="${word#"$current"}"
          case "$rest" in *.*) word="$current${rest%%.*}." ;; esac
          case " $found " in *" $word "*) ;; *) found="$found $word" ;; esac
        done
        [ "$before" = "$first" ] && found="$found @COMMANDS@"
      elif [ "$before" = "$first" ]; then
        found="$(_rlhf_jax_choices "$first:")"
      fi
      [ -z "$found" ] && found="$(_rlhf_jax_files "$current")" ;;
  esac
  case "$COMP_WORDBREAKS" in *=*) kept="${current%"${current##*=}"}" ;; esac
  case "$COMP_WORDBREAKS" in
    *:*) rest="${current%"${current##*:}"}"; [ "${#rest}" -gt "${#kept}" ] && kept="$rest" ;;
  esac
  COMPREPLY=()
  for word in $found; do
    case "$word" in "$current"*) ;; *) continue ;; esac
    word="${word#"$kept"}"
    case "$word" in *=|*.|*/) ;; *) word="$word " ;; esac
    COMPREPLY+=("$word")
  done
}
complete -o nospace -F _rlhf_jax rlhf-jax"""


def main(words: Sequence[str]) -> None:
    """Print the script of the shell that the word after ``completion`` names."""
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if not words or "--help" in words:
        print(_HELP)
        return
    if len(words) > 1 or words[0] not in shells:
        hint = did_you_mean(words[-1], shells)
        raise UserError(f"completion: {' '.join(words)}: name one shell of {', '.join(shells)}{hint}")
    print(shells[words[0]]())


def options_of(text: str) -> list[str]:
    """The options that a help text speaks of, ``--NAME=`` where a value follows; ``--config.`` where it takes any."""
    found = dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z_]*(?:=|\.(?=KEY)|(?![\w.]))", text))
    return [*(one for one in found if f"{one}=" not in found and one not in ("--noconfig", "--help")), "--help"]


def choices_of(name: str, text: str) -> dict[str, list[str]]:
    """What there is to choose from, by option, where the usage of a command says so (``--kind=one|other``); under ""
    the words that may stand after the command itself, if they are no places.
    """
    usage = text.partition("usage:")[2].partition("\n\n")[0]
    found = {f"--{key}": words.split("|") for key, words in re.findall(r"--([a-z_]+)=([a-z_]+(?:\|[a-z_]+)+)", usage)}
    first = re.findall(rf"rlhf-jax {name} ([a-z][a-z|-]+)(?=\s|$)", usage)
    return found | ({"": [word for one in first for word in one.split("|")]} if first else {})


def _help_of(name: str) -> str:
    """``_HELP`` of a command's module, which is not imported for it: most load more than a shell should wait for."""
    source = pathlib.Path(__file__).with_name(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    lines = (line for line in ast.parse(source).body if isinstance(line, ast.Assign))
    return next(ast.literal_eval(line.value) for line in lines if ast.unparse(line.targets[0]) == "_HELP")


def bash() -> str:
    """The script for bash."""
    known = settings()
    filled = {
        "VALUES": "\n".join(f"    {one.key}) echo '{' '.join(_values(one))}' ;;" for one in known if _values(one)),
        "PATHS": "|".join(one.key for one in known if _is_free(one)),
        "OPTIONS": "\n".join(f"    {name}) echo '{' '.join(options_of(_help_of(name)))}' ;;" for name in NAMES),
        "CHOICES": "\n".join(
            f"    {name}:{option}) echo '{' '.join(words)}' ;;"
            for name in NAMES
            for option, words in choices_of(name, _help_of(name)).items()
        ),
        "RUN": " ".join(_run_options()),
        "KEYS": " ".join(one.key for one in known),
        "SWITCHES": " ".join(one.key for one in known if isinstance(one.default, bool)),
        "COMMANDS": " ".join(NAMES),
    }
    return "# Completion of rlhf-jax for bash.\n" + re.sub("@([A-Z]+)@", lambda name: filled[name[1]], _BASH)


def zsh() -> str:
    """The script for zsh, whose bashcompinit runs the function of bash."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash()}"


def fish() -> str:
    """The script for fish: a line for each command, option and setting."""
    return "\n".join(["# Completion of rlhf-jax for fish.", *_fish_lines()])


def _fish_lines() -> Iterator[str]:
    yield f"complete -c rlhf-jax -n '__fish_use_subcommand' -f -a '{' '.join(NAMES)}'"
    for name in NAMES:
        given = f"__fish_seen_subcommand_from {name}"
        choices = choices_of(name, _help_of(name))
        if "" in choices:
            yield f"complete -c rlhf-jax -n '{given}' -f -a '{' '.join(choices.pop(''))}'"
        yield from _fish_options(options_of(_help_of(name)), given, choices)
    yield from _fish_options(_run_options(), f"not __fish_seen_subcommand_from {' '.join(NAMES)}")
    idle = [name for name in NAMES if "--config." not in options_of(_help_of(name))]
    settled = f"not __fish_seen_subcommand_from {' '.join(idle)}"
    for one in settings():
        values = f" -a '{' '.join(_values(one))}'" if _values(one) else ""
        files = "r" if _is_free(one) else "x"
        yield f"complete -c rlhf-jax -n '{settled}' -l config.{one.key} -{files}{values} -d {_quoted(one.meaning)}"


def _fish_options(
    options: Sequence[str], condition: str, choices: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Iterator[str]:
    for option in options:
        if option != "--config.":
            value = " -r" if option.endswith("=") else ""
            if option.strip("=") in choices:
                value = f" -x -a '{' '.join(choices[option.strip('=')])}'"
            yield f"complete -c rlhf-jax -n '{condition}' -l {option.strip('-=')}{value}"


def _run_options() -> list[str]:
    """Those of the program without a command: what its help says under usage."""
    return options_of(HELP.partition("usage:")[2].partition("commands")[0])


def _values(one: Setting) -> list[str]:
    """Those of its choices that are values, and not the form of one (FILE.py:CLASS)."""
    if one.key == "stages":
        return list(STAGES)
    return [choice for choice in one.choices if choice.islower()]


def _is_free(one: Setting) -> bool:
    """Whether it is a text without a choice, which may be the name of a file."""
    return one.kind == KINDS[str] and not one.choices


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
