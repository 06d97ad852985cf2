"""What runs compile, by jax's own events: each program once, nothing between steps, and nothing at all a second time.

A cache on disk that is empty at first knows programs by what they do: whatever is compiled twice is found there.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import rlhf_jax.run
from tests.end_to_end import tiny

pytestmark = pytest.mark.usefixtures("one_device")

HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"
COMPILED = "/jax/core/compile/backend_compile_duration"
# The exact solver of what a utility asks for computes in float64, where jax knows none of float32's conversions again.
OF_SOLVER = {"jit(convert_element_type)", "jit(broadcast_in_dim)"}


FIGURES = -1


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program; ``batch`` is the number of the batch whose step compiled it, in its stage, ``FIGURES`` where reading a
    step's figures did, 0 where something else did.
    """

    name: str
    stage: str
    batch: int
    from_disk: bool


class Watched:
    """Runs on a cache folder of their own, with nothing left in memory of what came before.

    ``programs`` are those of the last run, ``sizes`` of each stage the shapes of its batches.
    """

    def __init__(self, cache: pathlib.Path) -> None:
        self._cache = cache

    def __call__(self, *words: str) -> list[Compiled]:
        self.programs: list[Compiled] = []
        self.sizes: dict[str, list[Any]] = {}
        self._place, self._hit = ("", 0), False
        tiny.small_world("classic", "broken", 8)  # read before its own cache is somewhere else
        jax.clear_caches()
        compilation_cache.reset_cache()
        names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
        before = {name: jax.config.values[name] for name in names}
        jax.config.update(names[0], None)
        jax.config.update(names[1], 1.0)  # jax's own default
        jax.monitoring.register_event_listener(self._event)
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RLHF_JAX_CACHE", str(self._cache))
                patch.setattr(rlhf_jax.run, "make_task", self._watching(rlhf_jax.run.make_task))
                tiny.launch(*words, report=False)
        finally:
            jax.monitoring.unregister_event_listener(self._event)
            jax.monitoring.unregister_event_duration_listener(self._duration)
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
        return self.programs

    def _event(self, event: str, **_: Any) -> None:
        if event in (HIT, MISS):
            self._hit = event == HIT

    def _duration(self, event: str, _: float, fun_name: str = "", **__: Any) -> None:
        if event == COMPILED:
            self.programs.append(Compiled(fun_name, *self._place, self._hit))

    def _watching(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(context: Any, stage: str) -> Any:
            self._place = stage, 0
            task, sizes = make(context, stage), self.sizes.setdefault(stage, [])

            def step(state: Any, batch: Any) -> Any:
                sizes.append(tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch)))
                self._place = stage, len(sizes)
                done = task.step(state, batch)
                self._place = stage, 0
                return done

            def finish(out: Any) -> dict[str, float]:
                self._place = stage, FIGURES
                found = task.finish(out)
                self._place = stage, 0
                return found

            return dataclasses.replace(task, step=step, finish=finish)

        return made


@pytest.fixture
def watched(tmp_path: pathlib.Path) -> Iterator[Watched]:
    yield Watched(tmp_path / "cache")
    jax.clear_caches()  # what was compiled here would seem to be known to whoever counts next


def in_steps(programs: list[Compiled], stage: str) -> dict[int, list[str]]:
    """What the steps of a stage compiled, by the number of the batch."""
    found: dict[int, list[str]] = {}
    for program in programs:
        if program.stage == stage and program.batch > 0:
            found.setdefault(program.batch, []).append(program.name)
    return found


def assert_once_for_each_size(watched: Watched, stage: str) -> None:
    sizes = watched.sizes[stage]
    new = [number for number, size in enumerate(sizes, 1) if size not in sizes[: number - 1]]
    found = in_steps(watched.programs, stage)
    assert list(found) == new
    assert all(names.count("jit(constrained)") == 1 for names in found.values())
    assert all(names == ["jit(constrained)"] for number, names in found.items() if number > 1)


def assert_each_once(programs: list[Compiled]) -> None:
    """And for the figures of steps one at most: the learning rate."""
    figures = [program.name for program in programs if program.batch == FIGURES]
    assert len(figures) <= len({program.stage for program in programs if program.stage})
    assert {program.name for program in programs if program.from_disk} <= OF_SOLVER


def test_fine_tuning_compiles_its_step_once_and_a_second_run_nothing(tmp_path: pathlib.Path, watched: Watched) -> None:
    """More than two passes over its packed rows."""
    command = (f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}", *tiny.PIPELINE, "--config.stages=sft")
    assert_each_once(watched(*command, f"--workdir={tmp_path / 'first'}"))
    assert len(set(watched.sizes["sft"])) == 1
    assert_once_for_each_size(watched, "sft")
    programs = watched(*command, f"--workdir={tmp_path / 'second'}")
    assert len(programs) > 20
    assert all(program.from_disk for program in programs)


@pytest.mark.slow
def test_no_stage_compiles_a_program_twice_and_a_second_run_compiles_none(
    tmp_path: pathlib.Path, watched: Watched
) -> None:
    """Lists of two or five responses; PPO by its tokens, which change from one iteration to the next."""
    rows = [
        {"prompt": f"Which, {number}?", "responses": [{"text": "x" * (2 + place)} for place in range(size)]}
        for number, size in enumerate([2, 5] * 24)
    ]
    command = (
        f"--config={tiny.ROOT / 'configs' / 'lists_file.py'}",
        f"--config.data.path={tiny.write_jsonl(tmp_path / 'lists.jsonl', rows)}",
        *tiny.PIPELINE,
        *tiny.FILE,
        "--config.stages=sft,reward,ppo,dpo",
        "--config.tokenizer.kind=byte",
        "--config.reward.batch_size=2",
        "--config.reward.steps=20",
        "--config.reward.eval_every=15",
        "--config.reward.eval_train=0",
        "--config.dpo.batch_size=2",
        "--config.dpo.steps=20",
        "--config.dpo.eval_every=15",
        "--config.checkpoint.every=9",
        "--config.ppo.unpad=yes",
    )
    assert_each_once(watched(*command, f"--workdir={tmp_path / 'first'}"))
    assert len(set(watched.sizes["reward"])) > 1 < len(set(watched.sizes["dpo"]))
    for stage in ("sft", "reward", "dpo"):
        assert_once_for_each_size(watched, stage)
    first, *later = in_steps(watched.programs, "ppo").values()
    assert first == ["jit(minibatches)", "jit(step_keys)", *["jit(constrained)"] * 3]
    assert all(set(names) == {"jit(constrained)"} for names in later)  # for other numbers of tokens
    programs = watched(*command, f"--workdir={tmp_path / 'second'}")
    assert len(programs) > 60
    assert all(program.from_disk for program in programs)
