"""What ``--help`` prints: the whole, or what there is to know of the settings that are asked for. Imports no JAX."""

import ast
import textwrap
from pathlib import Path

from rlhf_jax.config import did_you_mean
from rlhf_jax.config.explained import Setting, group_meaning, is_group, settings, text_of
from rlhf_jax.errors import UserError

HELP = """Train a language model with reinforcement learning from human feedback: SFT, reward model, PPO.

examples:
  python -m rlhf_jax --config=configs/quickstart.py --workdir=runs/a
      every stage on the embedded world, some minutes on a CPU; read runs/a/report/index.html
  python -m rlhf_jax --config=configs/reward_pairwise.py --workdir=runs/b --config.reward.utility.sigma=0.5
      one stage, with a setting of your own; there may be any number of them
  python -m rlhf_jax --config=runs/a/config.json --dry_run --config.reward.utility_by_type.open.name=log
      an earlier run with another utility: checked and planned, not trained

usage: python -m rlhf_jax --config=FILE.py[:ARG] --workdir=DIR [--dry_run] [--config.KEY=VALUE ...]

  --config=FILE     a config file with get_config(), or the config.json of an earlier run
  --workdir=DIR     the run directory; the same command again goes on from its last checkpoint
  --dry_run         check everything, print the plan, train nothing (rlhf-jax plan says exactly what it needs)
  --config.KEY=V    set one setting; true/false settings also as --config.KEY and --noconfig.KEY
  --help WORD       a setting (reward.utility.name), a group of them (ppo.kl), or all that speak of a WORD (kl); also -h
  --version         the version of this program

commands (each with a --help of its own):
  theory            the rewards that a utility asks for, without training: rlhf-jax theory --utility=power:0.5 --n=8
  collapse          whether types of prompt share one reward distribution: rlhf-jax collapse FILE.jsonl
  evaluate          how far a reward model can be trusted: rlhf-jax evaluate runs/a
  best-of-n         what the best of n answers is worth: rlhf-jax best-of-n runs/a --n=16
  labels            what to ask people, and what they said: rlhf-jax labels to-labelstudio runs/a --out=DIR
  prepare           a file of feedback, read and checked once: rlhf-jax prepare FILE --out=DIR
  export            a trained model as a Hugging Face folder: rlhf-jax export runs/a --stage=reward --out=DIR
  plan              what each program of a run needs, on devices that need not be there: rlhf-jax plan --config=FILE
  chat              talk to a policy on a page and judge its answers: rlhf-jax chat runs/a --out=labels.jsonl
  sweep             many runs over a space of settings, on many workers: rlhf-jax sweep --config=FILE --workdir=DIR
  report            a page of a run, of several compared, or of a sweep: rlhf-jax report runs/a runs/b
  completion        commands and settings completed by the shell: source <(rlhf-jax completion bash)

All settings, with units and what they do, are in docs/reference/config.md; docs/tutorial.md takes ten minutes."""

WIDTH = 110


def help_text() -> str:
    """The help, with the config files that are at hand and the first line of each."""
    lines = [HELP]
    for path in sorted(Path("configs").glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines += ["", "configs:"] if len(lines) == 1 else []
        lines.append(f"  {path!s:34}{doc.split(chr(10), 1)[0]}")
    return "\n".join(lines)


def explain(word: str) -> str:
    """What there is to know of a setting, of each setting of a group, or of those whose key or meaning has the word.

    ``word`` may begin with ``--config.`` or ``config.`` and end with ``=VALUE``. Raises UserError if nothing fits.
    """
    key = word.removeprefix("--").removeprefix("config.").partition("=")[0].rstrip(".")
    if key.startswith("reward.utility_by_type."):  # the keys of every type are those of reward.utility
        key = ".".join(["reward.utility", *key.split(".")[3:]])
    known = settings()
    found = [one for one in known if one.key == key or one.key.startswith(f"{key}.")]
    if not found and not is_group(key):
        found = [one for one in known if _spoken(key) in _spoken(f"{one.key} {one.meaning}")]
        if not found:
            hint = did_you_mean(key, [one.key for one in known])
            raise UserError(f"--help {word}: no setting is called so or speaks of it{hint}")
    head = [f"config.{key}: {group_meaning(key)}", ""] if is_group(key) and group_meaning(key) else []
    return "\n".join([*head, *map(_told, found)]).rstrip()


def _spoken(text: str) -> str:
    """Text as it is looked for: a key's underscores are spaces."""
    return " ".join(text.lower().replace("_", " ").split())


def _told(one: Setting) -> str:
    kind = f"one of {', '.join(one.choices)}" if one.choices else ", ".join(filter(None, (one.kind, one.allowed)))
    facts = "; ".join(filter(None, (kind, f"unit: {one.unit}" if one.unit else "")))
    lines = [f"--config.{one.key}={text_of(one.default)}"]
    for text in (facts, one.meaning):
        lines += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)
