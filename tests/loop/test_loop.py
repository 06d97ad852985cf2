"""The order of events, and that a run cut off anywhere ends as the one that was not."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import loop
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.diagnostics.monitor import Alarm, Monitor
from rlhf_jax.loop import Alarmed, Evaluated, Evaluation, Event, Started, Stepped, Stopped, Task, run
from rlhf_jax.types import TrainState


class Counting:
    """Batches 1, 2, 3, ..."""

    def __init__(self) -> None:
        self.given = 0

    def __next__(self) -> int:
        self.given += 1
        return self.given

    def get_state(self) -> dict[str, Any]:
        return {"given": self.given}

    def set_state(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


def chaotic(x: jax.Array, batch: int, key: jax.Array, step: jax.Array) -> jax.Array:
    """Every step counts: a batch left out, repeated, out of order, or other noise gives another number."""
    noise = jax.random.uniform(jax.random.fold_in(key, step), x.shape)
    return 3.9 * x * (1 - x) * (1 - 0.01 * jnp.sin(jnp.float32(batch))) * (1 - 0.01 * noise)


@dataclasses.dataclass
class Toy:
    """A task, and a diary of all that the loop asked of it."""

    total: int = 12
    log_every: int = 3
    eval_every: int = 5
    diary: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    used: list[int] = dataclasses.field(default_factory=list)
    last: TrainState | None = None
    alarm: Alarm | None = None
    halts: bool = False

    def task(self) -> Task:
        def step(state: TrainState, batch: int) -> tuple[TrainState, Any]:
            self.used.append(batch)
            x = chaotic(state.params["x"], batch, state.key, state.step)
            self.last = TrainState(state.step + 1, {"x": x}, state.opt_state, state.key, {})
            self.diary.append(("step", int(self.last.step)))
            return self.last, (int(self.last.step), x)

        def finish(out: tuple[int, jax.Array]) -> dict[str, float]:
            self.diary.append(("finish", out[0]))
            return {"x": float(out[1][0])}

        def evaluate(state: TrainState, final: bool) -> Evaluation:
            self.diary.append(("final" if final else "evaluate", int(state.step)))
            return Evaluation({"x": float(state.params["x"][0])})

        start = TrainState(jnp.int32(0), {"x": jnp.asarray([0.3, 0.6])}, (), jax.random.key(1), {})
        return Task(
            name="toy",
            total_steps=self.total,
            state=start,
            batches=Counting(),
            step=step,
            finish=finish,
            evaluate=evaluate,
            log_every=self.log_every,
            eval_every=self.eval_every,
            monitor=None if self.alarm is None else Monitor([self.alarm]),
            halts=self.halts,
        )


def drained(toy: Toy, directory: Path, every: int = 4, stop: Callable[[Event], bool] = lambda _: False) -> list[Event]:
    """The events up to and with the first that ``stop`` is true of; there the run is abandoned."""
    events = []
    with Checkpoints(directory) as checkpoints:
        stream: Iterator[Event] = run(toy.task(), checkpoints, checkpoint_every=every)
        for event in stream:
            events.append(event)
            if stop(event):
                break
        stream.close()  # type: ignore[attr-defined]
    return events


def outline(events: list[Event]) -> list[tuple]:
    rows: list[tuple] = []
    for event in events:
        match event:
            case Started(step):
                rows.append(("started", step))
            case Stepped(step, metrics):
                rows.append(("logged" if metrics else "stepped", step))
            case Evaluated(step, _, final):
                rows.append(("final" if final else "evaluated", step))
            case Alarmed(step, _):
                rows.append(("alarmed", step))
            case Stopped(step):
                rows.append(("stopped", step))
    return rows


def test_events_come_in_order(tmp_path: Path) -> None:
    """Logs at 3, 6, 9 and the end, evaluations at 5 and 10: every step once, each evaluation after its step."""
    events = drained(Toy(), tmp_path / "c")
    expected: list[tuple] = [("started", 0)]
    for step in range(1, 13):
        expected.append(("logged" if step % 3 == 0 else "stepped", step))
        if step in (5, 10):
            expected.append(("evaluated", step))
    assert outline(events) == [*expected, ("final", 12)]


def test_metrics_and_evaluations_are_those_of_their_step(tmp_path: Path) -> None:
    """Metrics are fetched late, but they are not the metrics of a later step."""
    x, truth = jnp.asarray([0.3, 0.6]), [0.3]
    for number in range(12):
        x = chaotic(x, number + 1, jax.random.key(1), jnp.int32(number))
        truth.append(float(x[0]))
    for event in drained(Toy(), tmp_path / "c"):
        match event:
            case Stepped(step, metrics) if metrics:
                assert set(metrics) == {"x", "steps_per_second", "time.input"}
                assert metrics["x"] == truth[step]
                assert metrics["steps_per_second"] > 0
            case Evaluated(step, evaluation, _):
                assert evaluation.metrics["x"] == truth[step]


def test_the_share_of_making_batches_is_that_of_the_rows_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock by which a batch takes a second, a step three, and an evaluation, which is in no share, a hundred."""
    now = [0.0]

    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            now[0] += seconds
            return function(*args)

        return timed

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Counting, "__next__", taking(1.0, Counting.__next__))
    task = Toy().task()
    task = dataclasses.replace(task, step=taking(3.0, task.step), evaluate=taking(100.0, task.evaluate))
    with Checkpoints(tmp_path / "c") as checkpoints:
        rows = {e.step: e.metrics for e in run(task, checkpoints, checkpoint_every=4) if isinstance(e, Stepped)}
    assert [rows[step]["time.input"] for step in (3, 6, 9, 12)] == pytest.approx([0.25] * 4)


def test_the_next_step_is_on_its_way_before_metrics_are_waited_for(tmp_path: Path) -> None:
    """Step 3 is logged after step 4 has been sent; step 12, the last, has no next."""
    toy = Toy(eval_every=100)
    drained(toy, tmp_path / "c", every=100)
    assert [entry for entry in toy.diary if entry[1] in (3, 4) or entry[0] == "finish"] == [
        ("step", 3),
        ("step", 4),
        ("finish", 3),
        ("finish", 6),
        ("finish", 9),
        ("finish", 12),
    ]
    assert toy.diary.index(("step", 7)) < toy.diary.index(("finish", 6)) < toy.diary.index(("step", 8))


def test_everything_up_to_a_saved_step_has_been_yielded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever writes events down at once never has less on disk than the checkpoint knows."""
    seen: list[tuple] = []
    at_save: dict[int, list[tuple]] = {}
    real = Checkpoints.save

    def save(self: Checkpoints, state: TrainState, meta: dict[str, Any]) -> None:
        at_save[int(state.step)] = list(seen)
        assert meta["batches"] == {"given": int(state.step)}
        real(self, state, meta)

    monkeypatch.setattr(Checkpoints, "save", save)
    with Checkpoints(tmp_path / "c") as checkpoints:
        # Every third step is logged and saved; every fifth evaluated.
        for event in run(Toy().task(), checkpoints, checkpoint_every=3):
            seen += outline([event])
    assert sorted(at_save) == [3, 6, 9, 12]
    for step, before in at_save.items():
        assert before[-1] == ("logged", step)
        assert len(before) == 1 + step + sum(step >= evaluated for evaluated in (5, 10))


def test_an_evaluation_at_a_saved_step_comes_before_the_save(tmp_path: Path) -> None:
    """Or a run cut off in that evaluation would never make it."""
    toy = Toy(eval_every=4)
    drained(toy, tmp_path / "c", every=4, stop=lambda event: isinstance(event, Evaluated))
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() is None


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, 7, 8, 11, 12])
def test_a_run_cut_off_after_any_step_ends_the_same(tmp_path: Path, cut: int) -> None:
    """Bit for bit, every batch being used once in the run that counts: what came after the last save is done again."""
    whole = Toy()
    truth = outline(drained(whole, tmp_path / "whole"))

    first, second = Toy(), Toy()

    def stop(event: Event) -> bool:
        return event == Started(0) if cut == 0 else isinstance(event, Stepped) and event.step == cut

    before = drained(first, tmp_path / "cut", stop=stop)
    after = drained(second, tmp_path / "cut")
    with Checkpoints(tmp_path / "cut") as checkpoints:
        assert checkpoints.latest() == 12
    start = after[0].step
    # Saves are made after the events of their step: the event of step 4 is out, its save is not yet.
    assert start == max(cut - 1, 0) // 4 * 4
    assert first.used[:start] + second.used == list(range(1, 13)) == whole.used
    kept = [row for row in outline(before) if row[1] <= start and row[0] != "started"]
    assert [("started", 0), *kept, *outline(after)[1:]] == truth
    assert second.last is not None
    assert whole.last is not None
    np.testing.assert_array_equal(second.last.params["x"], whole.last.params["x"])


def test_a_run_cut_off_again_and_again_ends_the_same(tmp_path: Path) -> None:
    whole, starts = Toy(total=9), []
    drained(whole, tmp_path / "whole", every=2)
    for _ in range(5):
        toy = Toy(total=9)
        steps = 0

        def stop(event: Event) -> bool:
            nonlocal steps
            steps += isinstance(event, Stepped)
            return steps == 3

        starts.append(drained(toy, tmp_path / "cut", every=2, stop=stop)[0].step)
    assert starts == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(toy.last.params["x"], whole.last.params["x"])


def test_a_finished_run_is_only_evaluated(tmp_path: Path) -> None:
    drained(Toy(), tmp_path / "c")
    again = Toy()
    events = drained(again, tmp_path / "c")
    assert outline(events) == [("started", 12), ("final", 12)]
    assert again.diary == [("final", 12)]
    assert again.used == []


def test_the_last_step_is_logged_saved_and_evaluated_once(tmp_path: Path) -> None:
    """Even where no interval ends there, and where all of them do."""
    for total in (7, 6):
        toy = Toy(total=total, log_every=2, eval_every=3)
        events = outline(drained(toy, tmp_path / str(total), every=2))
        assert events[-2:] == [("logged", total), ("final", total)]
        assert [row for row in events if row[0] == "evaluated"] == [("evaluated", 3)] + [("evaluated", 6)] * (
            total == 7
        )
        with Checkpoints(tmp_path / str(total)) as checkpoints:
            assert checkpoints.latest() == total


@pytest.mark.parametrize("last", [0, 1, 4, 5, 7, 12])
def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_of_every_step(tmp_path: Path, last: int) -> None:
    """After the step under way, on a save or none, before the first step, after the last; then it ends as if never
    asked."""
    whole = Toy()
    truth = outline(drained(whole, tmp_path / "whole"))
    asked = iter([False] * last + [True])
    toy = Toy()
    with Checkpoints(tmp_path / "c") as checkpoints:
        before = outline(list(run(toy.task(), checkpoints, checkpoint_every=4, stop=lambda: next(asked))))
        assert checkpoints.latest() == (last or None)
    assert before[-1] == ("stopped", last)
    assert toy.used == list(range(1, last + 1))
    rest = Toy()
    after = outline(drained(rest, tmp_path / "c"))
    assert toy.used + rest.used == whole.used
    assert [*before[:-1], *after[1:]] == truth
    if rest.last is not None:
        assert whole.last is not None
        np.testing.assert_array_equal(rest.last.params["x"], whole.last.params["x"])


def values(events: list[Event]) -> dict[int, float]:
    """x after each step."""
    return {event.step: event.metrics["x"] for event in events if isinstance(event, Stepped)}


@pytest.fixture(scope="module")
def path_of_x(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    return values(drained(Toy(log_every=1), tmp_path_factory.mktemp("x") / "c"))


def bound(path_of_x: dict[int, float], step: int) -> Alarm:
    """An alarm that first goes off at the step at which x is higher than ever before."""
    assert path_of_x[step] > max(path_of_x[i] for i in range(1, step))
    return Alarm("x", "above", max(path_of_x[i] for i in range(1, step)))


def records(path_of_x: dict[int, float]) -> list[int]:
    """The steps at which x is higher than ever before."""
    return [step for step in path_of_x if step > 1 and path_of_x[step] > max(path_of_x[i] for i in range(1, step))]


def test_an_alarm_that_warns_changes_nothing_but_the_events(path_of_x: dict[int, float], tmp_path: Path) -> None:
    step = records(path_of_x)[0]
    plain, watched = Toy(log_every=1), Toy(log_every=1, alarm=bound(path_of_x, step))
    without = outline(drained(plain, tmp_path / "a"))
    found = outline(drained(watched, tmp_path / "b"))
    assert [row for row in found if row[0] != "alarmed"] == without
    assert found[found.index(("logged", step)) + 1] == ("alarmed", step)
    ends = [toy.last.params["x"] for toy in (plain, watched) if toy.last is not None]
    assert np.array_equal(*ends)


def test_an_alarm_that_stops_makes_its_step_the_last(path_of_x: dict[int, float], tmp_path: Path) -> None:
    """Whatever is saved in between; that step is evaluated and saved."""
    step = records(path_of_x)[-1]
    for every in (1, 4, 100):
        toy = Toy(log_every=1, eval_every=100, alarm=bound(path_of_x, step), halts=True)
        found = outline(drained(toy, tmp_path / f"{every}", every=every))
        assert found[-3:] == [("logged", step), ("alarmed", step), ("final", step)]
        assert toy.diary[-1] == ("final", step)
        with Checkpoints(tmp_path / f"{every}") as checkpoints:
            assert checkpoints.latest() == step


def test_a_run_cut_off_before_its_alarm_stops_where_the_whole_one_does(tmp_path: Path) -> None:
    """What the monitor has counted is in the checkpoint: nine rows on end, cut off after every event in turn."""
    alarm = Alarm("x", "above", 0.0, patience=9)

    def toy() -> Toy:
        return Toy(log_every=1, eval_every=5, alarm=alarm, halts=True)

    events = drained(toy(), tmp_path / "whole", every=2)
    whole = events[-1]
    assert outline(events)[-2:] == [("alarmed", 9), ("final", 9)]
    for cut in range(1, len(events), 2):
        left = iter(range(cut))
        drained(toy(), tmp_path / str(cut), 2, lambda _, left=left: next(left, None) is None)
        last = drained(toy(), tmp_path / str(cut), every=2)[-1]
        assert isinstance(last, Evaluated)
        assert isinstance(whole, Evaluated)
        assert (last.step, last.evaluation.metrics) == (9, whole.evaluation.metrics)


def test_evaluations_are_watched_under_a_name_of_their_own(tmp_path: Path) -> None:
    """Held out, x is x too; an alarm on the one does not read the other."""
    toy = Toy(log_every=1, alarm=Alarm("validation.x", "above", -1.0), halts=False)
    assert outline(drained(toy, tmp_path / "c"))[6:8] == [("evaluated", 5), ("alarmed", 5)]


def test_a_step_that_an_evaluation_makes_the_last_has_one_evaluation(tmp_path: Path) -> None:
    """The closing one, also where the run is cut off before it; or metrics would have two held-out rows of a step."""

    def toy() -> Toy:
        return Toy(log_every=1, alarm=Alarm("validation.x", "above", -1.0), halts=True)

    events = drained(toy(), tmp_path / "whole")
    assert outline(events)[-3:] == [("logged", 5), ("alarmed", 5), ("final", 5)]
    assert sum(isinstance(event, Evaluated) for event in events) == 1
    cut = drained(toy(), tmp_path / "cut", every=1, stop=lambda event: isinstance(event, Alarmed))
    assert not [event for event in cut if isinstance(event, Evaluated)]
    assert outline(drained(toy(), tmp_path / "cut", every=1))[-1] == ("final", 5)


def test_a_stage_that_has_only_to_close_says_so(tmp_path: Path) -> None:
    alarm = Alarm("x", "above", -1.0)
    drained(Toy(log_every=1, alarm=alarm, halts=True), tmp_path / "c", stop=lambda event: isinstance(event, Alarmed))
    # Cut off before the step was saved: all is done again.
    assert drained(Toy(log_every=1, alarm=alarm, halts=True), tmp_path / "c")[0] == Started(0)
    found = drained(Toy(log_every=1, alarm=alarm, halts=True), tmp_path / "c")
    assert found[0] == Started(1, closing=True, drawn=1)
    assert outline(found) == [("started", 1), ("final", 1)]


def test_a_run_that_goes_on_holds_one_state(tmp_path: Path) -> None:
    """What the task began with is let go before the checkpoint is read: a run that fits must fit again."""
    with Checkpoints(tmp_path) as checkpoints:
        for event in run(Toy().task(), checkpoints, checkpoint_every=4):
            if event == Stepped(5, {}):
                break
    task = Toy().task()
    with Checkpoints(tmp_path) as checkpoints:
        events = run(task, checkpoints, checkpoint_every=4)
        assert isinstance(next(events), Started)
        assert task.state.params["x"].is_deleted()
        assert task.state.key.is_deleted()
        events.close()
