"""The space of a sweep: which keys of the configuration vary, and over what.

A space is a function that asks for the values of configuration keys, by the three methods of an Optuna trial. A file
defines it, ``space(trial)``, and may ask for one key depending on what another came out as; words of the command line,
KEY=TEXT, are the plain case.
"""

import dataclasses
import runpy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rlhf_jax.config import from_json, type_name
from rlhf_jax.config.explained import text_of
from rlhf_jax.errors import UserError
from rlhf_jax.flags import apply, default_of, guarded, override
from rlhf_jax.sweeps.folder import Value

Space = Callable[["Asked"], object]
MOST_POINTS = 1000  # of a grid: more take a sampler, and the library's enumeration grows with the square
_RANGES = ("log", "uniform", "int")


def optuna() -> Any:
    """The library, which is loaded by nothing but sweeps.

    Raises:
      UserError: it is not installed.
    """
    try:
        import optuna as library
    except ModuleNotFoundError:
        raise UserError("sweep: needs optuna: pip install 'rlhf_jax[sweep]'") from None
    library.logging.set_verbosity(library.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=library.exceptions.ExperimentalWarning)
    return library


# ------------------------------------------------------------------------- a space


class Asked:
    """What a space asks: an Optuna trial, or a point that is known.

    To Optuna a key that may come from several sets is so many parameters, one for each set, since to it a parameter has
    one set for ever.
    """

    def __init__(self, trial: Any, known: Mapping[str, Value] | None = None) -> None:
        self._trial, self._known = trial, known
        self.parameters: dict[str, Value] = {}  # by key
        self.values: dict[str, Value] = {}  # by Optuna's name
        self.distributions: dict[str, Any] = {}  # by Optuna's name

    def suggest_categorical(self, key: str, choices: Sequence[Value]) -> Any:
        """One of ``choices``."""
        distribution = optuna().distributions.CategoricalDistribution(choices)
        return self._suggest(key, distribution, lambda name: self._trial.suggest_categorical(name, choices))

    def suggest_float(
        self, key: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from ``low`` to ``high``, evenly or evenly in the logarithm, or in steps."""
        distribution = optuna().distributions.FloatDistribution(low, high, log=log, step=step)
        return self._suggest(key, distribution, lambda n: self._trial.suggest_float(n, low, high, step=step, log=log))

    def suggest_int(self, key: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        distribution = optuna().distributions.IntDistribution(low, high, log=log, step=step)
        return self._suggest(key, distribution, lambda n: self._trial.suggest_int(n, low, high, step=step, log=log))

    def _suggest(self, key: str, distribution: Any, ask: Callable[[str], Any]) -> Any:
        if key in self.parameters:
            raise UserError(f"config.{key}: the space asks for it twice")
        name = f"{key} of {distribution}"
        if self._known is not None and key not in self._known:
            raise UserError(f"config.{key}: not a key of the point")
        value = ask(name) if self._known is None else self._known[key]
        self.parameters[key] = self.values[name] = value
        self.distributions[name] = distribution
        return value


def make_space(path: Path | None, keys: Sequence[tuple[str, str]]) -> Space:
    """The space of a file, of pairs of key and text, or of both, the file's keys first.

    Raises:
      UserError: there is no such file or function, no such key, or a text that is nothing to sweep it over.
    """
    asked = [_asked_for(key, text) for key, text in keys]
    if path is None and not asked:
        raise UserError("sweep: nothing to sweep over; name a file by --space, or keys by --sweep.KEY=V1,V2")
    if path is not None:
        asked.insert(0, _of_file(path))

    def space(trial: Asked) -> None:
        for one in asked:
            one(trial)

    return space


def _of_file(path: Path) -> Space:
    if not path.is_file():
        raise UserError(f"--space: no such file: {path}")
    function = guarded(str(path), lambda: runpy.run_path(str(path))).get("space")
    if not callable(function):
        raise UserError(f"{path}: defines no function space(trial)")
    return lambda asked: guarded(str(path), lambda: function(asked))


def _asked_for(key: str, text: str) -> Space:
    name = f"--sweep.{key}"
    default = default_of(key)
    kind, _, rest = text.partition(":")
    if kind in _RANGES:
        if type(default) not in (int, float):
            raise UserError(f"{name}: {text}: config.{key} is {type_name(default)}; list its values: V1,V2")
        return _range(name, key, kind, rest, type(default))
    if isinstance(default, tuple):
        raise UserError(f"{name}: config.{key} is a list of texts; sweep it by a file, --space")
    values = [_read(key, word.strip()) for word in text.split(",")]
    if len(set(values)) < len(values):
        raise UserError(f"{name}: {text}: a value is there twice")
    return lambda trial: trial.suggest_categorical(key, values)


def _range(name: str, key: str, kind: str, rest: str, type_: type) -> Space:
    words = rest.split(":")
    low, high = (_read(key, word) for word in words) if len(words) == 2 else (None, None)
    if low is None or high is None or not low < high:
        raise UserError(f"{name}: {kind}:{rest}: must be {kind}:LOW:HIGH, the first below the second")
    if kind == "log" and low <= 0:
        raise UserError(f"{name}: {kind}:{rest}: must begin above 0")
    if (kind, type_) in (("int", float), ("uniform", int)):
        right = "int" if type_ is int else "uniform or log"
        raise UserError(f"{name}: {kind}:{rest}: config.{key} is {type_name(type_())}; use {right}")
    if type_ is int:
        return lambda trial: trial.suggest_int(key, low, high, log=kind == "log")
    return lambda trial: trial.suggest_float(key, low, high, log=kind == "log")


def _read(key: str, text: str) -> Any:
    """The value that a run's own command line would take the text for."""
    config = from_json("{}")
    override(config, key, text)
    *groups, leaf = key.split(".")
    node: Any = config
    for group in groups:
        node = node[group]
    return node[leaf]


# ------------------------------------------------------------------------- its points


def grid(space: Space) -> list[dict[str, Value]]:
    """Every point of a space of lists, in the order of nested loops.

    Raises:
      UserError: a key has no list of values, or there are more than MOST_POINTS.
    """
    library = optuna()
    found: list[Any] = []

    def visited(trial: Any) -> float:
        found.append(asking(space, trial))
        return 0.0

    study = library.create_study(sampler=library.samplers.BruteForceSampler(seed=0))
    try:
        study.optimize(visited, n_trials=MOST_POINTS + 1)
    except ValueError as error:
        raise UserError(f"sweep: {error}") from None
    if len(found) > MOST_POINTS:
        raise UserError(f"--sampler: grid: the space has more than {MOST_POINTS} points; use random or tpe")
    found.sort(key=lambda one: [one.distributions[name].to_internal_repr(value) for name, value in one.values.items()])
    return [one.parameters for one in found]


def draw(space: Space, seed: int, point: int) -> dict[str, Value]:
    """A random point of the space, which depends on nothing but the two numbers."""
    library = optuna()
    trial = library.create_study(sampler=library.samplers.RandomSampler(seed=stream(seed, point))).ask()
    return asking(space, trial).parameters


def stream(seed: int, point: int) -> int:
    """The seed from which a sampler finds a point."""
    return int(np.random.SeedSequence([seed, point]).generate_state(1)[0])


def asking(space: Space, trial: Any, known: Mapping[str, Value] | None = None) -> Asked:
    """What the space asked the trial, or a point that is known, and what it was told."""
    asked = Asked(trial, known)
    space(asked)
    return asked


@dataclasses.dataclass(frozen=True)
class Base:
    """The configuration that trials start from."""

    text: str

    def at(self, parameters: Mapping[str, Value], seed: int) -> ConfigDict:
        """The configuration of a trial, validated and locked.

        Raises:
          UserError: there is no such key, or no run could honour the values.
        """
        config = from_json(self.text)
        if "seed" in parameters:
            raise UserError("config.seed: seeds are a dimension of their own; give them as --seeds=0,1,2")
        config.seed = seed
        apply(config, [(key, text_of(value)) for key, value in parameters.items()])
        return config


def named(parameters: Mapping[str, Value]) -> list[str]:
    """A point as overrides."""
    return [f"{key}={text_of(value)}" for key, value in parameters.items()]
