"""Where the time of our step goes, by kind of operation: a table, JSON and a figure.

    python -m benchmarks.profile STAGE [--model=small] [--threads=1] [--steps=3] [--figure=build/profile_STAGE.png]

STAGE is sft, reward_pairs, reward_lists, dpo, sampling, sampling_varied, ppo or ppo_varied, as the scripts of these
names have it. XLA's own trace says how long each operation ran; which lines of which file an operation is from says
what it is for. An operation's time is its own, without those that it calls. The wall time in which nothing ran is the
host's, which in these rounds reads all figures of a step before it begins the next one.
"""

import argparse
import collections
import dataclasses
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import dpo, ppo, reward_lists, reward_pairs, sampling, sft
from benchmarks.harness.driver import ROOT
from benchmarks.harness.shapes import MODELS
from benchmarks.harness.stage import Stage, make_material
from benchmarks.harness.worker import confine

STAGES: dict[str, Stage] = {
    "sft": sft.STAGE,
    "reward_pairs": reward_pairs.STAGE,
    "reward_lists": reward_lists.STAGE,
    "dpo": dpo.STAGE,
    "sampling": sampling.STAGES[2],
    "sampling_varied": sampling.STAGES[3],
    "ppo": ppo.STAGES[0],
    "ppo_varied": ppo.STAGES[1],
}
LAYERS, REST = "matrix products of layers", "the rest"
# What an operation is for, by the first of these that its lines pass through, from the innermost call outwards.
KINDS = (
    (re.compile(r"/optax/|optimizer\.py|learners/(muon|adafactor)\.py"), "optimizer"),
    (re.compile(r"objectives/|output_logits"), "logits and losses"),
    (re.compile(r"generation/sampling\.py"), "drawing tokens"),
    (re.compile(r"models/(kernels|blockwise|masks|lists)\.py"), "attention"),
    (re.compile(r"models/(norms|rotary)\.py"), "norms and rotations"),
    (re.compile(r"models/"), "between products of layers"),
    (re.compile(r"learners/step\.py"), "optimizer"),
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One instruction of a compiled program: the files and functions that it is from, and whether it multiplies."""

    frames: tuple[str, ...]
    multiplies: bool

    @property
    def kind(self) -> str:
        """What it is for."""
        for frame in self.frames:
            for pattern, name in KINDS:
                if pattern.search(frame):
                    return LAYERS if self.multiplies and name == "between products of layers" else name
        return REST


def operations(text: str) -> dict[str, Operation]:
    """The instructions of a compiled program, by name, from its text with the tables of places in the source."""
    tables: dict[str, dict[int, str]] = {}
    multiplying: set[str] = set()
    found: dict[str, tuple[str, int]] = {}
    section = computation = ""
    for line in text.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            section = line
            tables[section] = {}
        elif section and (entry := re.match(r"(\d+) (.*)", line)):
            tables[section][int(entry[1])] = entry[2]
        elif line.startswith(("%", "ENTRY")):
            section, computation = "", line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
        elif instruction := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line):
            section = ""
            frame = re.search(r"stack_frame_id=(\d+)", line)
            found[instruction[1]] = (line, int(frame[1]) if frame else 0)
            if re.search(r" (dot|convolution)\(|__onednn|DotGeneral", line):
                multiplying.add(computation)
    made = {}
    for name, (line, frame) in found.items():
        called = re.findall(r"calls=%?([\w.\-]+)", line)
        multiplies = bool(re.search(r" (dot|convolution)\(|DotGeneral", line)) or bool(set(called) & multiplying)
        made[name] = Operation(tuple(_frames(tables, frame)), multiplies)
    return made


def _frames(tables: Mapping[str, Mapping[int, str]], frame: int) -> Iterable[str]:
    """FILE FUNCTION of a frame and its callers, the innermost first."""
    seen = set()
    while frame and frame not in seen and frame in tables.get("StackFrames", {}):
        seen.add(frame)
        fields = dict(re.findall(r"(\w+)=(\d+)", tables["StackFrames"][frame]))
        place = dict(re.findall(r"(\w+)=(\d+)", tables["FileLocations"][int(fields["file_location_id"])]))
        file = tables["FileNames"].get(int(place.get("file_name_id", 0)), "")
        function = tables["FunctionNames"].get(int(place.get("function_name_id", 0)), "")
        yield f"{file} {function}".replace('"', "")
        frame = int(fields.get("parent_frame_id", 0))


def own_times(events: Sequence[tuple[float, float, str]]) -> dict[str, float]:
    """Nanoseconds by name of (begin, duration, name) on one thread, less what runs within."""
    total: dict[str, float] = collections.defaultdict(float)
    open_events: list[tuple[float, str]] = []
    for begin, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while open_events and open_events[-1][0] <= begin:
            open_events.pop()
        if open_events:
            total[open_events[-1][1]] -= duration
        total[name] += duration
        open_events.append((begin + duration, name))
    return total


def idle_share(events: Iterable[tuple[float, float]]) -> float:
    """The share of the time from the first (begin, duration) to the last end in which none of them lasts."""
    ordered = sorted(events)
    first = end = ordered[0][0]
    busy = 0.0
    for begin, duration in ordered:
        busy += max(begin + duration - max(begin, end), 0.0)
        end = max(end, begin + duration)
    return 1.0 - busy / (end - first)


def profile(stage: Stage, model: str, threads: int, steps: int, folder: Path) -> tuple[dict[str, float], float]:
    """(seconds by kind in a round, the share of wall time in which no operation ran on any thread)."""
    case = {"model": model, "threads": threads, "settings": {}, **stage.case(model), "steps": 1}
    case["folder"] = str(folder / "material")
    make_material(folder / "material", case)
    case |= stage.prepare(case, folder / "material")
    confine(threads)
    dump, traces, workdir = (folder / name for name in ("hlo", "trace", "run"))
    workdir.mkdir()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump} --xla_dump_hlo_as_text"
    import jax

    from benchmarks.sides import ours
    from rlhf_jax.build import make_context

    context = make_context(ours.configuration(case), workdir)
    actions = ours.sampling(context, case) if case["stage"] == "sampling" else ours.training(context, case)
    actions["round"]()
    with jax.profiler.trace(str(traces)):
        for _ in range(steps):
            actions["round"]()
    found = jax.profiler.ProfileData.from_file(str(next(traces.rglob("*.xplane.pb"))))
    texts = {path: path.read_text() for path in dump.glob("*after_optimizations.txt")}
    programs: dict[str, dict[str, Operation]] = {}
    seconds: dict[str, float] = collections.defaultdict(float)
    all_events: list[tuple[float, float]] = []
    for plane in found.planes:
        for line in plane.lines:
            events = []
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    name = f"{stats.get('program_id')}/{stats['hlo_module']}/{stats['hlo_op']}"
                    events.append((event.start_ns, event.duration_ns, name))
            all_events += [event[:2] for event in events]
            for name, spent in own_times(events).items():
                number, module, operation = name.split("/", 2)
                key = f"{number}/{module}"
                if key not in programs:
                    programs[key] = _program(texts, number, module)
                seconds[programs[key].get(operation, Operation((), False)).kind] += spent / 1e9 / steps
    return dict(seconds), idle_share(all_events)


def _program(texts: Mapping[Path, str], number: str, module: str) -> dict[str, Operation]:
    """The operations of a program, by its number if a dump has that, else of all that bear its name."""
    named = {path: text for path, text in texts.items() if f".{module}." in path.name}
    own = [text for path, text in named.items() if re.match(rf"module_0*{number}\.", path.name)]
    made: dict[str, Operation] = {}
    for text in own or named.values():
        made |= operations(text)
    return made


def draw(seconds: Mapping[str, float], title: str, to: Path) -> None:
    """Bars, the longest on top."""
    from matplotlib.figure import Figure

    from rlhf_jax.reports.style import RUN_COLOURS, figure_style

    ordered = sorted(seconds.items(), key=lambda item: item[1])
    with figure_style():
        figure = Figure(figsize=(6.4, 0.4 * len(ordered) + 1.0))
        axes = figure.subplots()
        bars = axes.barh([name for name, _ in ordered], [value for _, value in ordered], color=RUN_COLOURS[0])
        total = sum(seconds.values())
        axes.bar_label(bars, [f" {value / total:.0%}" for _, value in ordered])
        axes.set(xlabel="seconds a round", title=title)
        axes.margins(x=0.1)
        to.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(to, dpi=150)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=tuple(STAGES))
    parser.add_argument("--model", choices=tuple(MODELS), default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--figure", default="")
    args = parser.parse_args(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        seconds, idle = profile(STAGES[args.stage], args.model, args.threads, args.steps, Path(folder))
    print(json.dumps({**vars(args), "seconds": seconds, "idle": idle}))
    total = sum(seconds.values())
    print("| what | seconds a round | share |\n| --- | --- | --- |")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {value:.3f} | {value / total:.0%} |")
    print(f"nothing ran in {idle:.1%} of the wall time from the first operation to the last")
    draw(seconds, f"{args.stage}, {args.model}", ROOT / (args.figure or f"build/profile_{args.stage}.png"))


if __name__ == "__main__":
    main()
