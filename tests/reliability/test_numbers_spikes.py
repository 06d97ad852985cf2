"""R9: a spike of the loss is rewound, the batches before it are left behind, the same way every time.

Held to: a stream that never had those batches, without any guard; the end must have its bits, however often the run was
killed or stopped on the way.
"""

import dataclasses
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlhf_jax.build.sft
import rlhf_jax.run
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.diagnostics.guard import GuardSpec
from rlhf_jax.errors import BadNumbers
from rlhf_jax.loop import Evaluation, Event, Rewound, Stopped, Task, run
from rlhf_jax.metrics import read_jsonl, read_summary
from rlhf_jax.types import TrainState
from tests.end_to_end import tiny as runs
from tests.loop.test_loop import Counting, chaotic
from tests.reliability.conftest import Tally
from tests.reliability.test_numbers import COMMAND, Killed

# ------------------------------------------------------------------------------ the loop alone

TOTAL, EVERY = 14, 4
GUARD = GuardSpec(spike=50.0, window=4, max_rewinds=4)
BAD = (7, 8, 9, 15)  # the numbers of bad batches
# Step 7 meets batch 7: back to step 4, whence batches 8 and 9 are met by step 5 each, and batch 10 is good. Batch 15 is
# met by step 10: back to step 8.
KEPT = [1, 2, 3, 4, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21]
START = np.asarray([0.3, 0.6], np.float32)


def loss_of(batch: int) -> float:
    """Between 1 and 2, any few of them well apart; 1000 times that of a bad batch."""
    return (1000.0 if batch in BAD else 1.0) * (1 + 0.618034 * batch % 1)


def toy(total: int = TOTAL) -> Task:
    def step(state: TrainState, batch: int) -> tuple[TrainState, Any]:
        x = chaotic(state.params["x"], batch, state.key, state.step)
        return TrainState(state.step + 1, {"x": x}, (), state.key, {}), (loss_of(batch), x)

    return Task(
        name="toy",
        total_steps=total,
        state=TrainState(jnp.int32(0), {"x": jnp.array(START)}, (), jax.random.key(1), {}),
        batches=Counting(),
        step=step,
        finish=lambda out: {"loss": out[0], "x": float(out[1][0])},
        evaluate=lambda state, final: Evaluation({"x": float(state.params["x"][0])}),
        log_every=3,
        eval_every=5,
        flags=lambda out: (0, out[0]),
    )


def truth() -> list[float]:
    """x after each step, of the batches that are kept."""
    x, found = jnp.array(START), []
    for step, batch in enumerate(KEPT):
        x = chaotic(x, batch, jax.random.key(1), jnp.int32(step))
        found.append(float(x[0]))
    return found


def events_of(directory: pathlib.Path, stop: Iterator[bool]) -> Iterator[Event]:
    with Checkpoints(directory) as checkpoints:
        yield from run(toy(), checkpoints, checkpoint_every=EVERY, guard=GUARD, stop=lambda: next(stop, False))


def last_x(event: Event) -> float:
    return event.evaluation.metrics["x"]  # type: ignore[union-attr]


@pytest.mark.reliability("R9", tries=12, torture=150)
def test_killed_or_stopped_anywhere_the_end_is_that_without_the_bad_batches(
    tmp_path: pathlib.Path, tally: Tally
) -> None:
    """By hand: which batches are kept. Cut off after event after event, or asked to stop at boundary after boundary."""
    whole = list(events_of(tmp_path / "whole", iter(())))
    rewound = [event for event in whole if isinstance(event, Rewound)]
    told = [(one.step, one.spike, one.first, one.last) for one in rewound]
    for number in tally.tries:
        chance = random.Random(number)
        with tally.one(f"try {number}"):
            assert told == [(4, 7, 5, 7), (4, 5, 8, 8), (4, 5, 9, 9), (8, 10, 14, 15)]
            assert last_x(whole[-1]) == truth()[-1]
            directory, ended, begun = tmp_path / str(number), None, 0
            while ended is None:
                begun += 1
                cut = number + 1 if begun == 1 else chance.randrange(6, len(whole))
                if chance.random() < 0.5:  # asked to stop
                    *_, last = events_of(directory, iter([False] * cut + [True]))
                    ended = None if isinstance(last, Stopped) else last
                    continue
                found, stream = 0, events_of(directory, iter(()))
                for event in stream:
                    found, ended = found + 1, event
                    if found == cut:
                        ended = None
                        break
                stream.close()  # type: ignore[attr-defined]
            assert last_x(ended) == truth()[-1]


@pytest.mark.reliability("R9", tries=2, torture=4)
def test_too_many_rewinds_give_the_run_up(
    tmp_path: pathlib.Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten bad batches on end, four rewinds; started again it comes to the same end, and its checkpoint is there."""
    monkeypatch.setattr("tests.reliability.test_numbers_spikes.BAD", tuple(range(7, 17)))
    for number in tally.tries:
        with tally.one(f"try {number}"):
            for _ in range(2):
                with pytest.raises(BadNumbers, match=r"toy: step 5: loss .* in batch 11, after 4 rewinds to step 4"):
                    list(events_of(tmp_path / str(number), iter(())))
                with Checkpoints(tmp_path / str(number)) as checkpoints:
                    assert checkpoints.latest() == 4


# ------------------------------------------------------------------------------ a whole run

MARK = -7
SPIKING = ("--config.guard.spike=50.0", "--config.guard.window=3")
STEPS = ("--config.stages=sft", "--config.sft.steps=8", "--config.log.every=1")


class Marked:
    """The stream, with a mark on some batches, or without some; numbers from 1."""

    def __init__(self, stream: Any, marked: tuple[int, ...], without: tuple[int, ...]) -> None:
        self._stream, self._marked, self._without, self._number = stream, marked, without, 0

    def __next__(self) -> Any:
        batch, self._number = next(self._stream), self._number + 1
        while self._number in self._without:
            batch, self._number = next(self._stream), self._number + 1
        if self._number in self._marked:
            batch = dataclasses.replace(batch, index=np.full_like(batch.index, MARK))
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"own": self._number, "stream": self._stream.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._number = state["own"]
        self._stream.set_state(state["stream"])


def launched(
    workdir: pathlib.Path,
    *words: str,
    without: tuple[int, ...] = (),
    die: tuple[str, int] = ("", 0),
) -> int:
    """The exit code of a run whose batches 6 and 7 have a loss 30 times too large; ``die``: before a step for the n-th
    time (here), or in the n-th rewind.
    """
    where, count = die
    make_task, train_step, go_back = rlhf_jax.run.make_task, rlhf_jax.build.sft.train_step, Checkpoints.go_back
    seen: list[str] = []

    def befall(place: str) -> None:
        seen.append(place)
        if (place, seen.count(place)) == (where, count):
            raise Killed

    def make(context: Any, stage: str) -> Task:
        task = make_task(context, stage)

        def step(state: Any, batch: Any) -> Any:
            befall(f"step {int(state.step) + 1}")
            return task.step(state, batch)

        return dataclasses.replace(task, step=step, batches=Marked(task.batches, (6, 7), without))

    def steep(loss_sums: Any, optimizer: Any, state: Any, batch: Any, **rest: Any) -> Any:
        def steeper(params: Any, rows: Any) -> Any:
            sums = loss_sums(params, rows)
            return sums._replace(numerator=sums.numerator * jnp.where(rows.index[0] == MARK, 30.0, 1.0))

        return train_step(steeper, optimizer, state, batch, **rest)

    def back(self: Checkpoints, *arguments: Any) -> Any:
        found = go_back(self, *arguments)
        befall("rewind")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf_jax.run, "make_task", make)
        patch.setattr(rlhf_jax.build.sft, "train_step", steep)
        patch.setattr(Checkpoints, "go_back", back)
        try:
            runs.launch(*COMMAND, *STEPS, *words, f"--workdir={workdir}", report=False)
        except SystemExit as end:
            return int(end.code or 0)
        except Killed:
            return -9
    return 0


DEATHS = [("rewind", 1), ("step 6", 2), ("step 6", 1), ("rewind", 2), ("step 7", 1), ("step 8", 1)]


@pytest.mark.reliability("R9", tries=2, torture=6)
def test_a_run_with_a_planted_range_ends_as_one_on_a_stream_without_it(
    tmp_path: pathlib.Path, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch 6 is met by step 6, and batch 7 by step 5 after the rewind: 5, 6 and 7 are left behind. All checkpoints and
    all rows of metrics are those of the other run.
    """
    clean = tmp_path / "clean"
    clean_code = launched(clean, without=(5, 6, 7))
    capsys.readouterr()
    for number in tally.tries:
        die = DEATHS[number % len(DEATHS)]
        with tally.one(f"killed at {die}"):
            assert clean_code == 0
            workdir = tmp_path / str(number)
            assert launched(workdir, *SPIKING, die=die) == -9
            assert launched(workdir, *SPIKING) == 0
            assert ": back to step 4, batches 5 to 6 left out" in capsys.readouterr().out
            runs.assert_same_state(clean, workdir, ("sft",))
            assert runs.rows_of(workdir) == runs.rows_of(clean)
            rows = read_jsonl(workdir / "skipped.jsonl")
            told = [(row["step"], row["batch"], row["rewound_to"], row["batches"]) for row in rows]
            assert told == [(6, 6, 4, [5, 6]), (5, 7, 4, [7, 7])]
            assert all(row["loss"] > row["bound"] for row in rows)
            assert read_summary(workdir)["sft.rewound"] == 2
            assert "sft.skipped" not in read_summary(workdir)
