"""``rlhf-jax sweep``: many runs over a space of settings, on any number of workers, and what they say together."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlhf_jax.config import did_you_mean, to_json
from rlhf_jax.console import say
from rlhf_jax.diagnostics.ranking import Objective
from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse
from rlhf_jax.metrics import UNITS
from rlhf_jax.sweeps.folder import Value, digest, open_sweep, read_sweep, read_trials
from rlhf_jax.sweeps.results import counted, write_results
from rlhf_jax.sweeps.space import Base, Space, draw, grid, make_space, named
from rlhf_jax.sweeps.spec import SweepSpec
from rlhf_jax.sweeps.table import print_table

SAMPLERS, PRUNERS = ("grid", "random", "tpe"), ("none", "median", "halving")
_WHAT = ("space", "sampler", "sampler_seed", "points", "seeds", "objective", "pruner", "failures")
_VALUED = (*_WHAT, "workers", "lease")
_SWITCHES = ("show", "dry_run", "quiet", "help")
OPTIONS = ("--config", "--workdir", *(f"--{name}" for name in (*_VALUED, *_SWITCHES)), "--sweep.KEY")
UNTOLD = ("bayes", "train", "alarm")  # what figures of a summary begin with that have no unit of their own
_CHECKED = 50  # random points of a space without end that are looked at before anything runs
_HELP = """Many runs over a space of settings. Each is a run directory in the sweep's folder; the same command goes on.

usage: rlhf-jax sweep --config=FILE.py[:ARG] --workdir=DIR [--config.KEY=VALUE ...] --objective=NAME:max
                      [--space=FILE.py] [--sweep.KEY=VALUES ...]
       rlhf-jax sweep DIR [--workers=N]     go on with the sweep in DIR, or join those who work on it
       rlhf-jax sweep DIR --show            its results so far

  --sweep.KEY=V1,V2       these values of a setting (KEY as after --config.)
  --sweep.KEY=uniform:A:B, log:A:B, int:A:B    a range, even or even in the logarithm
  --space=FILE.py         a file that defines space(trial), for settings that depend on each other
  --sampler=grid          every point of lists; or random, or tpe (which learns from the trials), each with
  --points=N              so many points
  --sampler_seed=0        the seed of random and tpe
  --seeds=0,1,2           every point is run under each of these (default: config.seed alone)
  --objective=NAME:max    the figure of summary.json to judge by, and which way is better; several with commas
  --pruner=none           or median, halving: end trials early whose evaluations fall behind
  --failures=0.5          the share of ended trials that may have failed before the sweep gives up
  --workers=1             processes on this host; start the same command elsewhere for more
  --lease=60              seconds without a sign of life after which a trial of another host is taken over
  --dry_run               check every point, list them, run nothing
  --quiet                 print no table at the end

examples:
  rlhf-jax sweep --config=configs/reward_listwise.py --workdir=runs/gamma --objective=reward.pair_accuracy:max \\
      --sweep.reward.utility.gamma=0.1,0.3,0.9 --seeds=0,1,2 --workers=2
  rlhf-jax sweep runs/gamma --show"""

Read = TypeVar("Read")


def main(words: Sequence[str]) -> None:
    """Answer the words after ``sweep``.

    Raises:
      UserError: one line, for anything that cannot be swept.
      SystemExit: with the code of a sweep that has not come to its end.
    """
    options, keys, rest = _split(words)
    if "help" in options:
        print(_HELP)
        return
    workers = _number(options, "workers", "1", int, lambda n: n >= 1, "a whole number from 1")
    lease = _number(options, "lease", "60", float, lambda s: 1 <= s < math.inf, "a number of seconds from 1")
    if "place" in options:
        folder = Path(options["place"])
        _only_joining(options, keys, rest)
    else:
        folder = _begin(options, keys, rest)
    if "dry_run" in options:
        return
    spec = read_sweep(folder)
    if "show" in options:
        if "objective" in options:
            shown = dataclasses.replace(spec, objectives=_objectives(options["objective"], spec.config["stages"]))
            print_table(shown, counted(read_trials(folder), shown.objectives))
            return
    else:
        code = _work(folder, workers, lease)
        if code:
            raise SystemExit(code)
    if "quiet" not in options:
        trials = counted(read_trials(folder), spec.objectives)
        write_results(folder, spec, trials)
        print_table(spec, trials)
        if any(trial.state == "done" for trial in trials):
            from rlhf_jax.reports import write_sweep_report  # here: it loads what draws figures

            print(f"report: {write_sweep_report(folder)}")


def _work(folder: Path, workers: int, lease: float) -> int:
    if workers > 1:
        from rlhf_jax.sweeps.pool import run_pool

        return run_pool(folder, workers, lease)
    from rlhf_jax.sweeps.worker import Worker  # here: it loads JAX

    Worker(folder, lease).work()
    return 0


# ------------------------------------------------------------------------- words to a sweep


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]], list[str]]:
    """The command's own options, the keys that are swept, and the words that are a run's."""
    options: dict[str, str] = {}
    keys: dict[str, str] = {}
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            if "place" in options or word.startswith("-"):
                raise UserError(f"sweep: {word}: not an option; settings are given as --config.KEY=VALUE")
            options["place"] = word
        elif name in ("config", "workdir") and not equals and left and not left[0].startswith("--"):
            rest += [word, left.pop(0)]
        elif name in ("config", "workdir") or name.startswith(("config.", "noconfig.")):
            rest.append(word)
        elif name.startswith("sweep."):
            key = name.removeprefix("sweep.")
            if not text:
                raise UserError(f"--{name}: no values given, expected --{name}=V1,V2")
            if key in keys:
                raise UserError(f"--{name}: given twice")
            keys[key] = text
        elif name in _SWITCHES and not equals:
            options[name] = ""
        elif name in _VALUED:
            if not equals:
                text = left.pop(0) if left and not left[0].startswith("--") else ""
            if not text:
                raise UserError(f"sweep: --{name}: no value given")
            options[name] = text
        else:
            hint = did_you_mean(f"--{name}", OPTIONS) or f"; the options are {', '.join(OPTIONS)} and --config.KEY"
            raise UserError(f"sweep: {word}: no such option{hint}")
    return options, list(keys.items()), rest


def _only_joining(options: dict[str, str], keys: Sequence[tuple[str, str]], rest: Sequence[str]) -> None:
    given = [f"--sweep.{key}" for key, _ in keys] + [word.split("=")[0] for word in rest]
    given += [
        f"--{name}"
        for name in (*_WHAT, "dry_run")
        if name in options and not (name == "objective" and "show" in options)
    ]
    if given:
        raise UserError(
            f"sweep: {given[0]}: the sweep in {options['place']} is what it was begun as; with --config and --workdir "
            "a command says anew what it is"
        )


def _begin(options: dict[str, str], keys: list[tuple[str, str]], rest: Sequence[str]) -> Path:
    """Check all that the command asks for, then make the sweep's folder or see that it is the same."""
    config_given = any(word == "--config" or word.startswith("--config=") for word in rest)
    if not config_given and not rest:
        raise UserError("sweep: name a folder to go on with, or --config and --workdir to begin one")
    launch = parse(list(rest) + (["--dry_run"] if "dry_run" in options else []))
    config = json.loads(to_json(launch.config))
    path = Path(options["space"]) if "space" in options else None
    space = make_space(path, keys)
    sampler = _one_of(options, "sampler", SAMPLERS)
    objectives = _objectives(options.get("objective", ""), launch.config.stages)
    pruner = _one_of(options, "pruner", PRUNERS)
    if pruner != "none" and len(objectives) > 1:
        raise UserError(f"--pruner: {pruner} needs one objective, and --objective names {len(objectives)}")
    sampler_seed = _number(options, "sampler_seed", "0", int, lambda n: n >= 0, "a whole number from 0")
    points = _points(options, sampler, space, sampler_seed)
    text = path.read_text(encoding="utf-8") if path else ""
    spec = SweepSpec(
        config=config,
        file=digest(text),
        keys=tuple(keys),
        sampler=sampler,
        sampler_seed=sampler_seed,
        seeds=_seeds(options, launch.config.seed),
        points=_count(options, points),
        objectives=objectives,
        pruner=pruner,
        failures=_number(options, "failures", "0.5", float, lambda share: 0 <= share <= 1, "a share from 0 to 1"),
    )
    base = Base(json.dumps(config))
    for point in points:
        try:
            base.at(point, spec.seeds[0])
        except UserError as error:
            raise UserError(f"sweep: the point {' '.join(named(point))}: {error}") from None
    if "dry_run" in options:
        _print_plan(spec, points)
    else:
        open_sweep(Path(launch.workdir), spec, text)
    return Path(launch.workdir)


def _points(options: dict[str, str], sampler: str, space: Space, seed: int) -> list[dict[str, Value]]:
    """Points to be looked at before anything runs: all that are known then, of tpe a sample of the space."""
    if sampler == "grid":
        if "points" in options:
            raise UserError("--points: a grid has the points that it has; use --sampler=random or tpe")
        return grid(space)
    if "points" not in options:
        raise UserError(f"--points: missing; say how many of them --sampler={sampler} is to try")
    count = _number(options, "points", "", int, lambda n: n >= 1, "a whole number from 1")
    return [draw(space, seed, point) for point in range(count if sampler == "random" else _CHECKED)]


def _count(options: dict[str, str], points: Sequence[Any]) -> int:
    return int(options["points"]) if "points" in options else len(points)


def _seeds(options: dict[str, str], default: int) -> tuple[int, ...]:
    words = options.get("seeds", str(default)).split(",")
    if not all(word.strip().isdecimal() and int(word) < 2**32 for word in words):
        raise UserError(f"--seeds: {options['seeds']!r} is not a list of whole numbers from 0, such as 0,1,2")
    seeds = tuple(int(word) for word in words)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: {options['seeds']}: a seed is there twice")
    return seeds


def _objectives(text: str, stages: Sequence[str]) -> tuple[Objective, ...]:
    if not text:
        raise UserError("--objective: missing; name a figure of summary.json and its better way: NAME:max or NAME:min")
    found = []
    for word in text.split(","):
        metric, _, direction = word.strip().rpartition(":")
        if not metric or direction not in ("max", "min"):
            raise UserError(f"--objective: {word}: must be NAME:max or NAME:min")
        stage = metric.partition(".")[0]
        if stage not in stages:
            hint = did_you_mean(stage, stages) or f"; they are {', '.join(stages)}"
            raise UserError(f"--objective: {metric}: no stage {stage!r} in config.stages{hint}")
        # Only what it begins with: prompt types, kinds and sources have names of their own.
        names = [f"{stage}.{name.removeprefix('validation.')}" for name in UNITS]
        if metric.split(".")[1:2] not in [name.split(".")[1:2] for name in names] + [[word] for word in UNTOLD]:
            raise UserError(f"--objective: {metric}: no figure of a run is called so{did_you_mean(metric, names)}")
        found.append(Objective(metric, "max" if direction == "max" else "min"))
    if len({one.metric for one in found}) < len(found):
        raise UserError(f"--objective: {text}: a figure is there twice")
    return tuple(found)


def _one_of(options: dict[str, str], name: str, known: Sequence[str]) -> Any:
    value = options.get(name, known[0])
    if value not in known:
        raise UserError(f"--{name}: {value!r} is not one of {', '.join(known)}{did_you_mean(value, known)}")
    return value


def _number(
    options: dict[str, str],
    name: str,
    default: str,
    kind: Callable[[str], Read],
    holds: Callable[[Read], bool],
    what: str,
) -> Read:
    text = options.get(name, default)
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not holds(value):
        raise UserError(f"--{name}: {text!r} is not {what}")
    return value


def _print_plan(spec: SweepSpec, points: Sequence[dict[str, Value]]) -> None:
    print(f"{spec.points} points x {len(spec.seeds)} seeds: {spec.trials} trials")
    if spec.sampler != "tpe":
        for number, point in enumerate(points):
            say(f"{number:4}  {' '.join(named(point))}")
    sys.stdout.flush()
