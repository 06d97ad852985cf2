"""A run that is killed again and again, at random moments of every stage, is the run that was not."""

import collections
import json
import pathlib
import random
import re
import signal
import time
from typing import NamedTuple

import pytest

from tests.end_to_end import tiny
from tests.reliability.child import Child
from tests.reliability.conftest import Tally

KILLS = 10  # of one run, at most
AT_START = 0.1  # share of kills that come before the first step of a process


class Stage(NamedTuple):
    """A stage to kill: its words, how many steps it has, and of how many examples a pass over its data is, each
    in so many rows.

    Rows of tokens have no numbers: 0 says that the run itself tells how many there are.
    """

    name: str
    words: tuple[str, ...]
    steps: int
    examples: int = 0
    rows: int = 1


QUICK = f"--config={tiny.ROOT / 'configs' / 'quickstart.py'}"
SFT_STEPS = ("--config.sft.steps=48", "--config.sft.eval_every=20")
STEPS = (
    "--config.reward.steps=48",
    "--config.reward.eval_every=20",
    "--config.dpo.steps=48",
    "--config.dpo.eval_every=20",
)
ITERATIONS = ("--config.ppo.iterations=36", "--config.ppo.eval_every=16", "--config.online.iterations=36")
STAGES = [
    Stage("sft", (QUICK, *SFT_STEPS), 48),
    Stage("reward_pairs", (QUICK, *STEPS, "--config.stages=reward_common", "--config.data.feedback=pairs"), 48, 64),
    Stage("reward_lists", (QUICK, *STEPS, "--config.stages=reward_common"), 48, 64),
    Stage("reward_prompt_aware", (QUICK, *STEPS), 48, 64),
    Stage("ppo", (QUICK, *ITERATIONS), 36, 64),
    Stage("dpo", (QUICK, *STEPS), 48, 64),
    Stage("online", (QUICK, *ITERATIONS), 36, 64, rows=2),
]


def words_of(stage: Stage, parents: pathlib.Path | None) -> tuple[str, ...]:
    """The command of one stage alone, which takes all that it needs from other runs."""
    own = stage.name.split("_")[0]
    name = next((word.split("=")[1] for word in stage.words if word.startswith("--config.stages=")), own)
    found = [
        *tiny.SIZE,
        *stage.words,
        f"--config.stages={name}",
        "--config.log.every=1",
        "--config.log.tensorboard=False",
    ]
    found += ["--config.checkpoint.every=3", "--config.checkpoint.every_iterations=2"]
    if parents is not None and own != "sft":
        found.append(f"--config.parents.sft={parents}")
    if parents is not None and own in ("ppo", "online"):
        found.append(f"--config.parents.reward={parents}")
    return tuple(found)


@pytest.fixture(scope="session")
def parents(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of SFT and a reward model, which the stages start from."""
    folder = tmp_path_factory.mktemp("parents")
    words = (*tiny.SIZE, "--config.stages=sft,reward", "--config.sft.steps=4", "--config.reward.steps=4")
    child = Child((QUICK, *words, f"--workdir={folder / 'run'}"), folder / "printed")
    assert child.end() == 0, child.printed.read_text()
    return folder / "run"


@pytest.mark.reliability("R1", tries=5, torture=50)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_run_that_is_killed_at_random_is_the_run_that_was_not(
    stage: Stage, parents: pathlib.Path, tally: Tally, tmp_path: pathlib.Path
) -> None:
    """Held to: parameters, moments, step and key bit for bit, every row of metrics, summary, samples and rewards of a
    run of which nobody knew; and to a pass over the data being each example once, whatever was read twice on the way.
    """
    command = words_of(stage, parents)
    whole, log = tmp_path / "whole", tmp_path / "whole.log"
    child = Child((*command, f"--workdir={whole}"), tmp_path / "printed", log=str(log))
    assert child.end() == 0, child.printed.read_text()
    chance = random.Random(f"{stage.name} {len(tally.tries)}")
    begun: list[int | None] = []
    for chain in range(0, len(tally.tries), KILLS):
        workdir, own = tmp_path / f"killed_{chain}", tmp_path / f"killed_{chain}.log"
        run = (*command, f"--workdir={workdir}")
        for number in tally.tries[chain : chain + KILLS]:
            with tally.one(f"{stage.name}, kill {number}"):
                begun.append(_killed_on_its_way(stage, run, chance, tmp_path, str(own)))
        child = Child(run, tmp_path / "printed", log=str(own))
        with tally.one(f"{stage.name}, end of run {chain}"):
            assert child.end() == 0, child.printed.read_text()
            begun.append(child.started)
            _assert_same(workdir, whole)
        with tally.one(f"{stage.name}, examples of run {chain}", of="R20"):
            _assert_each_once(stage, own, log)
    again = [start for start in begun[1:] if start is not None]
    # A run that was always killed before its first checkpoint would show nothing. Of few kills many may come too soon.
    least = 0.7 if len(again) > 2 * KILLS else 0.2
    assert sum(start > 0 for start in again) >= least * len(again), begun


def _killed_on_its_way(
    stage: Stage, run: tuple[str, ...], chance: random.Random, tmp_path: pathlib.Path, log: str
) -> int | None:
    """Begin, or go on, and kill; returns the step that it went on from, None if it was killed before it had any."""
    child = Child(run, tmp_path / "printed", log=log)
    if chance.random() < AT_START:
        time.sleep(chance.random())
    else:
        child.follow(0)
        far = (child.started or 0) + chance.randint(5, 10)
        child.follow(min(far, stage.steps - 2))
        time.sleep(chance.random() * 0.03)
    assert not child.ended, child.printed.read_text()
    child.kill()
    assert child.process.exitcode == -signal.SIGKILL, "it had ended before it was killed"
    return child.started


def _assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
    (name,) = (path.name for path in (other / "checkpoints").iterdir())
    tiny.assert_same_state(one, other, (name,))
    assert tiny.rows_of(one) == tiny.rows_of(other)
    assert (one / "summary.json").read_bytes() == (other / "summary.json").read_bytes()
    kept = {folder: _files(other / folder) for folder in ("samples", "rewards")}
    assert kept == {folder: _files(one / folder) for folder in kept}
    assert any(kept.values())


def _files(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _assert_each_once(stage: Stage, log: pathlib.Path, of_whole: pathlib.Path) -> None:
    """A step has the same examples whenever it is made, and each pass has every example once."""
    steps: dict[int, list[int]] = {}
    for line in [*of_whole.read_text().splitlines(), *log.read_text().splitlines()]:
        step, examples = json.loads(line)
        assert steps.setdefault(step, examples) == examples, f"step {step} had other examples when it was made again"
    assert sorted(steps) == list(range(1, stage.steps + 1))
    stream = [example for step in sorted(steps) for example in steps[step][:: stage.rows]]
    size = stage.examples or int(re.findall(r"packed into (\d+) rows", log.with_name("printed").read_text())[0])
    assert len(stream) >= 2 * size, "fewer than two passes"
    first = collections.Counter(stream[:size])  # of rows of tokens two may be the same
    assert not stage.examples or first == collections.Counter(range(size))
    for start in range(0, len(stream) - size + 1, size):
        assert collections.Counter(stream[start : start + size]) == first, f"pass {start // size}"
