"""``rlhf-jax plan``: what every program of a run needs, found by compiling it for devices that need not be there.

A mistake on the command line is told before JAX is loaded; and JAX is told of the devices before it is.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rlhf_jax.config import did_you_mean
from rlhf_jax.errors import UserError
from rlhf_jax.flags import parse
from rlhf_jax.metrics import write_text_atomically

if TYPE_CHECKING:
    from rlhf_jax.build.needs import Needs

_VALUED = ("topology", "devices", "json")
_OPTIONS = ("--config", *(f"--{name}" for name in _VALUED), "--help")
MOST_DEVICES = 4096
_HELP = """What every program of a run needs, found by compiling it: memory, FLOPs, communication. Nothing is trained,
no parameter is made, and the devices need not be there.

usage: rlhf-jax plan --config=FILE.py[:ARG] [--config.KEY=VALUE ...] [--topology=NAME | --devices=N] [--json=FILE]

  --config=FILE     as for a run, with the same overrides
  --topology=NAME   a TPU slice by generation and shape: v5e:2x4, v5p:4x4x4, v6e:8x8, ... (needs the extra tpu)
  --devices=N       N devices made of this host's CPU
                    (without either: the devices that there are)
  --json=FILE       the same as JSON, with every collective by itself

Printed for each program, of one device: memory by what it holds, against what the device has; FLOPs of matrix products
as compiled and as the mathematics asks for; bytes that it sends, by axis of the mesh. docs/plan.md says what each is.

examples:
  rlhf-jax plan --config=configs/quickstart.py --devices=8 --config.parallel.fsdp=4
  rlhf-jax plan --config=configs/llama_8b.py --topology=v5p:4x4x4 --json=plan.json"""
MIB = 2**20
# libtpu would ask the cloud which machine this is, say much when nobody answers, and let no second process compile
# beside it: of the chips that it guards against two users, none is used.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "none",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def main(words: Sequence[str]) -> None:
    """Answer the words after ``plan``.

    Raises:
      UserError: one line, for anything that cannot be planned.
    """
    options, rest = _split(words)
    if "help" in options:
        print(_HELP)
        return
    config = parse([*rest, "--dry_run"]).config
    _tell_jax(options)
    from rlhf_jax.build.ahead import plan_context, planned  # here: they load JAX
    from rlhf_jax.build.context import inherit_model
    from rlhf_jax.build.needs import needs_of

    inherit_model(config)
    context = plan_context(config, _devices(options))
    mesh, console = context.executor.mesh, Console(highlight=False)
    found: list[Needs] = []
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    kind = mesh.devices.flat[0].device_kind
    console.print(f"{mesh.size} devices of kind {kind}: {shape}. All figures are of one device.", soft_wrap=True)
    for stage in config.stages:
        own = []
        for one in planned(context, stage):
            print(f"compiling {one.program.name} ...", file=sys.stderr, flush=True)
            own.append(needs_of(one, context.executor))
            if "json" in options:  # a long plan that is stopped leaves what it has found
                _write(Path(options["json"]), dict(mesh.shape), kind, found + own)
        found += own
        _print(console, own)


def _write(path: Path, mesh: dict[str, int], kind: str, found: Sequence["Needs"]) -> None:
    shown = {"mesh": mesh, "device": kind, "programs": [as_json(one) for one in found]}
    write_text_atomically(path, json.dumps(shown, indent=1, allow_nan=False) + "\n")


# ------------------------------------------------------------------------- words to options


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The command's own options, and the words that are a run's."""
    options: dict[str, str] = {}
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name in ("config", "workdir") or name.startswith(("config.", "noconfig.")):
            rest.append(word)
        elif name == "help":
            options["help"] = ""
        elif name in _VALUED:
            if not equals:
                text = left.pop(0) if left and not left[0].startswith("--") else ""
            if not text:
                raise UserError(f"plan: --{name}: no value given")
            options[name] = text
        else:
            hint = did_you_mean(f"--{name}", _OPTIONS) or f"; the options are {', '.join(_OPTIONS)} and --config.KEY"
            raise UserError(f"plan: {word}: no such option{hint}")
    if "topology" in options and "devices" in options:
        raise UserError("plan: --topology and --devices: two answers to one question, give one of them")
    count = options.get("devices", "1")
    if not count.isdecimal() or not 1 <= int(count) <= MOST_DEVICES:
        raise UserError(f"plan: --devices: {count!r} is not a whole number from 1 to {MOST_DEVICES}")
    if "json" in options and not Path(options["json"]).absolute().parent.is_dir():
        raise UserError(f"plan: --json: no such folder: {Path(options['json']).parent}")
    return options, rest


def _tell_jax(options: dict[str, str]) -> None:
    """What jax reads from the environment when it is loaded."""
    if "devices" in options:
        flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        os.environ["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={options['devices']}"])
    if "devices" in options or "topology" in options:
        os.environ["JAX_PLATFORMS"] = "cpu"
    if "topology" in options:
        for name, value in _LIBTPU.items():
            os.environ.setdefault(name, value)


def _devices(options: dict[str, str]) -> Sequence[Any]:
    import jax

    from rlhf_jax.build.devices import topology_devices

    if "topology" in options:
        return topology_devices(options["topology"])
    return jax.devices()[: int(options["devices"])] if "devices" in options else jax.devices()


# ------------------------------------------------------------------------- what is shown


def as_json(one: "Needs") -> dict[str, Any]:
    """A record of one program."""
    total = {"memory": one.memory and {**dataclasses.asdict(one.memory), "total": one.memory.total}, "fits": one.fits}
    return dataclasses.asdict(one) | total


def _print(console: Console, found: Sequence["Needs"]) -> None:
    table = Table()
    table.add_column("")
    for one in found:
        table.add_column(one.program, justify="right")
    for name, cells in _rows(found):
        if name:
            table.add_row(name, *cells)
        else:
            table.add_section()
    console.print(table)
    for one in found:
        if one.open_loops:
            console.print(f"{one.program}: {one.open_loops} loops of unknown length were counted once", soft_wrap=True)
        if one.kernels:
            console.print(
                f"{one.program}: {one.kernels} calls of fused kernels, not in TFLOP, compiled", soft_wrap=True
            )


def _rows(found: Sequence["Needs"]) -> Sequence[tuple[str, list[str]]]:
    from rlhf_jax.build.needs import by_axes

    def memory(name: str) -> list[str]:
        return ["?" if one.memory is None else f"{getattr(one.memory, name) / MIB:,.1f}" for one in found]

    def number(values: Sequence[float | None], form: str) -> list[str]:
        return ["" if value is None else format(value, form) for value in values]

    names = ("parameters", "optimizer", "frozen", "batch", "padding", "results", "cache", "temporaries", "code")
    rows = [(f"{name}, MiB", memory(name)) for name in names]
    rows.append(("all, MiB", [f"{one.used / MIB:,.1f}" for one in found]))
    rows.append(("of, MiB", [f"{one.available / MIB:,.0f}" for one in found]))
    rows.append(("fits", ["yes" if one.fits else "NO" for one in found]))
    rows.append(("", []))
    rows.append(("TFLOP, compiled", number([one.flops and one.flops / 1e12 for one in found], ",.4g")))
    rows.append(("TFLOP, model", number([one.model_flops / 1e12 for one in found], ",.4g")))
    rows.append(("seconds at peak", number([one.seconds_at_peak for one in found], ",.3g")))
    rows.append(("XLA's seconds", number([one.compiler_seconds for one in found], ",.3g")))
    rows.append(("", []))
    sums = [by_axes(one.collectives) for one in found]
    for axes in sorted({axes for own in sums for axes in own}, key=lambda axes: (len(axes), axes)):
        rows.append((f"sent, {'+'.join(axes)}, MiB", [f"{own.get(axes, (0, 0))[1] / MIB:,.1f}" for own in sums]))
    return rows
