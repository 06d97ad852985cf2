"""How time and memory grow with the length of rows, lists, responses, vocabulary, batch and model.

    python -m benchmarks.growth [--axes=length,list,...] [--rounds=3] [--threads=1] [--figure=build/growth.png]

One size grows, the others stay. The programs are those that a run compiles (rlhf_jax.build.ahead), on random weights
and ids, all rows full. CPU seconds of a round are the median of the rounds after the first; memory is what the compiled
program holds beside its arguments and results, and how far the process grew while it ran. The table has the exponents
of straight lines through the logarithms: through all points, and through the upper three.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.driver import ROOT
from benchmarks.harness.worker import Answer, confine, measured

MODEL = {"width": 128, "depth": 2, "heads": 4, "kv_heads": 4, "mlp_width": 384, "vocabulary": 4096}


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows: the program's stage and name, the values, and what a value means for model and settings."""

    what: str
    stage: str
    program: str
    values: tuple[int, ...]
    model: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


AXES = {
    "length": Axis("tokens of a row", "sft", "sft.update", (128, 256, 512, 1024, 2048), settings=("sft.row_length",)),
    "list": Axis("responses of a list", "reward", "reward.update", (2, 4, 8, 16, 32, 64), settings=("data.list_size",)),
    "sampled": Axis(
        "tokens of a response", "sft", "sft.sample", (16, 32, 64, 128, 256), settings=("data.max_response",)
    ),
    "vocabulary": Axis("vocabulary", "sft", "sft.update", (2048, 8192, 32768, 131072), model=("vocabulary",)),
    "batch": Axis("rows of a batch", "sft", "sft.update", (1, 2, 4, 8, 16), settings=("sft.batch_size",)),
    "model": Axis("parameters of layers", "sft", "sft.update", (64, 128, 256, 512), model=("width", "mlp_width")),
}


def point(axis: Axis, value: int, rounds: int) -> dict[str, float]:
    """Seconds and memory at one value."""
    import jax

    from benchmarks.accelerator import configuration, made
    from rlhf_jax.build.ahead import plan_context, planned

    model = MODEL | {name: 3 * value if name == "mlp_width" else value for name in axis.model}
    settings = {"data.max_prompt": 64, "data.max_response": 64, "data.list_size": 8, "reward.batch_size": 1}
    settings |= {"sft.batch_size": 4, "sft.row_length": 256, "model.remat": "none"}
    settings |= {"ppo.prompts_per_iteration": 8, "ppo.samples_per_prompt": 1}
    settings |= dict.fromkeys(axis.settings, value)
    settings["sft.row_length"] = max(settings["sft.row_length"], settings["data.max_response"] + 64)
    args = argparse.Namespace(**model, dtype="float32", stages="sft,reward")
    args.settings = [f"--config.{key}={number}" for key, number in settings.items()]
    with tempfile.TemporaryDirectory() as folder:
        # Lists may be longer than those of the embedded world: of a file that has none as long, the shapes are alike.
        data = Path(folder) / "lists.jsonl"
        ranked = [{"text": text, "rank": rank} for rank, text in enumerate("ab")]
        data.write_text(json.dumps({"prompt": "p", "responses": ranked}) + "\n")
        args.settings.append(f"--config.data.path={data}")
        context = plan_context(configuration(Path(folder), args), jax.devices())
        one = next(one for one in planned(context, axis.stage) if one.program.name == axis.program)
    arguments = list(made(one.arguments, model["vocabulary"]))
    compiled = one.program.compile(context.executor).lower(*arguments).compile()
    seconds = []
    _forget_peak()
    before = _resident("VmRSS")
    for _ in range(rounds + 1):
        answer: Answer = {}
        with measured(answer):
            out = jax.block_until_ready(compiled(*arguments))
        seconds.append(answer["cpu"])
        if one.program.gives_up_state:
            arguments[0] = out[0]
    layers = arguments[0].params["layers"] if axis.stage != "reward" and hasattr(arguments[0], "params") else {}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(layers))
    return {
        "value": parameters if axis.what == "parameters of layers" else value,
        "seconds": statistics.median(seconds[1:]),
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "resident": max(_resident("VmHWM") - before, 1),
    }


def _forget_peak() -> None:
    if os.path.exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts anew


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def exponent(points: Sequence[dict[str, float]], what: str) -> float:
    """The slope of a straight line through the logarithms of ``what`` over those of the value."""
    values, found = (np.log([one[name] for one in points]) for name in ("value", what))
    return float(np.polyfit(values, found, 1)[0])


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """The exponents, in Markdown."""
    lines = ["| what grows | from, to | exponent of CPU seconds (upper three) | of temporary memory (upper three) |"]
    lines.append("| --- | --- | --- | --- |")
    for name, points in found.items():
        cells = [
            f"{exponent(points, what):.2f} ({exponent(points[-3:], what):.2f})" for what in ("seconds", "temporaries")
        ]
        ends = f"{points[0]['value']:,.0f}, {points[-1]['value']:,.0f}"
        lines.append(f"| {AXES[name].what} | {ends} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, float]]], to: Path) -> None:
    """A panel for each size: seconds above, memory below, on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    from rlhf_jax.reports.style import RUN_COLOURS, figure_style

    with figure_style():
        figure = Figure(figsize=(3.4 * max(len(found), 2), 6.4))
        panels = figure.subplots(2, len(found), squeeze=False, sharex="col")
        for column, (name, points) in enumerate(found.items()):
            values = [one["value"] for one in points]
            above, below = panels[:, column]
            above.loglog(values, [one["seconds"] for one in points], "o-", color=RUN_COLOURS[0])
            above.set_title(f"slope {exponent(points, 'seconds'):.2f}")
            for what, colour in (("temporaries", RUN_COLOURS[1]), ("resident", RUN_COLOURS[2])):
                # A process that has enough already grows by next to nothing, which a logarithm would make much of.
                sizes = [one[what] / 2**20 if one[what] >= 2**20 else math.nan for one in points]
                below.loglog(values, sizes, "o-", color=colour, label=what)
            below.set(xlabel=AXES[name].what, title=f"slope {exponent(points, 'temporaries'):.2f}")
        for panel in panels.flat:  # the style shows a power of ten as it is spelled
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_formatter(NullFormatter())
        panels[0, 0].set_ylabel("CPU seconds a round")
        panels[1, 0].set_ylabel("MiB")
        panels[1, 0].legend()
        to.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(to, dpi=150)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", default="build/growth.png")
    args = parser.parse_args()
    confine(args.threads)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in args.axes.split(","):
        found[name] = []
        for value in AXES[name].values:
            found[name].append(point(AXES[name], value, args.rounds))
            print(name, json.dumps(found[name][-1]), file=sys.stderr, flush=True)
    print(json.dumps(found))
    print(table(found))
    draw(found, ROOT / args.figure)


if __name__ == "__main__":
    main()
