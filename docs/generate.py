"""Write the pages of docs/reference/ that follow from the code: ``python -m docs.generate``. A test tells when to."""

import contextlib
import importlib
import io
import pathlib
import re
from collections.abc import Iterable, Iterator

from rlhf_jax.commands import NAMES
from rlhf_jax.config.explained import Setting, group_meaning, settings, text_of
from rlhf_jax.help import help_text
from rlhf_jax.metrics import BY_TYPE, UNITS

REFERENCE = pathlib.Path(__file__).parent / "reference"
NOTE = "<!-- Written by `python -m docs.generate`; a test holds it to the code. -->"


def pages() -> dict[str, str]:
    """Name of a file in docs/reference/ -> its text."""
    return {"config.md": config_page(), "metrics.md": metrics_page(), "commands.md": commands_page()}


# ------------------------------------------------------------------------------ settings

CONFIG_HEAD = """# Every setting

`--config.KEY=VALUE` on the command line, `config.KEY = VALUE` in a config file; `rlhf-jax --help KEY` prints the same.
Texts in a list are given as `a,b`, true/false settings also as `--config.KEY` and `--noconfig.KEY`. A value of another
type, one that is not allowed, and a combination that no run could honour are refused before anything is computed.
The defaults are a tiny model on the embedded world; the files of `configs/` start from them."""

PER_TYPE = """`reward.utility_by_type.TYPE` has the same keys, a group for each type of prompt that starts as a copy of
`reward.utility`; `reward.annotator_weights.NAME` is a number."""


def config_page() -> str:
    """The settings, a table for each group, the optimizers' in one."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings():
        group = setting.key.rpartition(".")[0]
        groups.setdefault("STAGE.optimizer" if group.endswith(".optimizer") else group, []).append(setting)
    parts = [CONFIG_HEAD]
    for group, members in groups.items():
        parts.append(f"## {f'`{group}`' if group else 'The run'}")
        parts += [_sentence(group_meaning(group))] if group_meaning(group) else []
        parts += [PER_TYPE] if group == "reward.utility" else []
        rows = _optimizer_rows(members) if group == "STAGE.optimizer" else [_row(one, _code(one)) for one in members]
        parts.append(_table(("key", "type", "default", "unit", "meaning"), rows))
    return _page(parts)


def _optimizer_rows(members: list[Setting]) -> Iterator[tuple[str, ...]]:
    """A row for each key of all stages' optimizers; a default in which they differ is told for each stage."""
    by_name: dict[str, dict[str, Setting]] = {}
    for one in members:
        stage, _, name = one.key.split(".")
        by_name.setdefault(name, {})[stage] = one
    for name, stages in by_name.items():
        one = next(iter(stages.values()))
        same = len({other.default for other in stages.values()}) == 1
        told = _code(one) if same else ", ".join(f"{stage} {_code(other)}" for stage, other in stages.items())
        yield _row(one, told, f"STAGE.optimizer.{name}")


def _row(one: Setting, default: str, key: str = "") -> tuple[str, ...]:
    kind = " \\| ".join(f"`{choice}`" for choice in one.choices) or ", ".join(filter(None, (one.kind, one.allowed)))
    return f"`{key or one.key}`", kind, default, one.unit, _linked(one.meaning)


def _code(one: Setting) -> str:
    text = text_of(one.default)
    return f"`{text}`" if text else "empty"


def _linked(text: str) -> str:
    return re.sub(r"docs/(\w+\.md)", r"[\1](../\1)", _escaped(text))


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_<>|\[\]`])", r"\\\1", text)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{_linked(text[1:])}."


# ------------------------------------------------------------------------------ metrics

METRICS_HEAD = """# Every metric

What a row of `metrics.jsonl` and the scalars of TensorBoard mean, with units. [The run directory](../run_directory.md)
has the names of `summary.json`: a figure of the last evaluation stands there as `STAGE.NAME`, without `validation.`.
A reward, where no unit is given, is in the units of the reward model, which lie in [0, 1] where its rewards do.
`NAME.TYPE` is one figure for each prompt type, pair of types, kind of segment, difference of ranks or source."""

HELD_OUT = """Of held-out data. `train.NAME` is the same of the `config.reward.eval_train` training lists, `bayes.NAME`
what one who knows the truth and the annotators' noise can expect of it."""


def metrics_page() -> str:
    """Every metric with its unit, those of training and those of held-out data."""
    held_out = {name: unit for name, unit in UNITS.items() if name.startswith("validation.")}
    of_steps = {name: unit for name, unit in UNITS.items() if name not in held_out}
    return _page(
        [
            METRICS_HEAD,
            "## Of steps, iterations and sampled answers",
            "An evaluation of a policy gives those that are read off samples too, as `validation.NAME`.",
            _metrics(of_steps),
            "## Of held-out data",
            HELD_OUT,
            _metrics(held_out),
        ]
    )


def _metrics(units: dict[str, str]) -> str:
    rows = (
        (f"`{name}`" + (f", `{name}.TYPE`" if name in BY_TYPE else ""), _escaped(unit)) for name, unit in units.items()
    )
    return _table(("name", "what, and its unit"), rows)


# ------------------------------------------------------------------------------ commands


def commands_page() -> str:
    """What each command says of itself."""
    parts = ["# Every command", "What `rlhf-jax --help` and `rlhf-jax COMMAND --help` print.", "## rlhf-jax"]
    parts.append(f"```text\n{help_text()}\n```")
    for name in NAMES:
        parts += [f"## rlhf-jax {name}", f"```text\n{_help_of(name)}\n```"]
    return _page(parts)


def _help_of(name: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        importlib.import_module(f"rlhf_jax.commands.{name.replace('-', '_')}").main(["--help"])
    return printed.getvalue().strip()


# ------------------------------------------------------------------------------ text


def _table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _page(parts: list[str]) -> str:
    head, *rest = parts
    title, _, text = head.partition("\n\n")
    return "\n\n".join([title, NOTE, *filter(None, [text]), *rest]) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
