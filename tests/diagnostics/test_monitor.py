"""Alarms on rows worked by hand, and a monitor that goes on where another stopped."""

import json
import math

import pytest

from rlhf_jax.diagnostics.monitor import Alarm, Monitor


def fired(alarm: Alarm, values: list[float]) -> int | None:
    monitor = Monitor([alarm])
    for step, value in enumerate(values, start=1):
        monitor.observe(step, {alarm.signal: value})
    return monitor.fired.get(0)


@pytest.mark.parametrize(
    ("alarm", "values", "step"),
    [
        (Alarm("kl", "above", 2.0), [1.0, 2.0, 2.1, 3.0], 3),
        (Alarm("kl", "above", 2.0, patience=2), [2.1, 1.0, 2.1, 2.2, 2.3], 4),
        (Alarm("kl", "above", 2.0, patience=2), [2.1, math.nan, 2.2], 3),  # a gap is no return
        (Alarm("entropy", "below", 0.5, relative=True), [0.8, 0.41, 0.39], 3),
        (Alarm("length", "above", 1.5, relative=True), [math.nan, 4.0, 5.9, 6.1], 4),
        (Alarm("kl", "above", 9.0), [1.0, 2.0], None),
    ],
)
def test_an_alarm_goes_off_at_the_right_row(alarm: Alarm, values: list[float], step: int | None) -> None:
    assert fired(alarm, values) == step


def test_an_alarm_goes_off_once_and_each_by_itself() -> None:
    monitor = Monitor([Alarm("kl", "above", 1.0), Alarm("gap", "above", 0.0)])
    assert monitor.observe(1, {"kl": 2.0}) == [monitor.alarms[0]]
    assert monitor.observe(2, {"kl": 3.0, "gap": 1.0}) == [monitor.alarms[1]]
    assert monitor.observe(3, {"kl": 4.0, "gap": 2.0}) == []
    assert monitor.fired == {0: 1, 1: 2}


def test_a_monitor_goes_on_from_its_state() -> None:
    alarms = [Alarm("kl", "above", 1.5, relative=True, patience=3)]
    rows = [1.0, 1.6, 1.7, 1.8]
    whole, first, second = Monitor(alarms), Monitor(alarms), Monitor(alarms)
    for step, value in enumerate(rows):
        whole.observe(step, {"kl": value})
    for step in (0, 1, 2):
        first.observe(step, {"kl": rows[step]})
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert second.observe(3, {"kl": rows[3]}) == alarms
    assert second.get_state() == whole.get_state()
    assert second.fired == {0: 3}


def test_an_alarm_in_words() -> None:
    assert str(Alarm("kl", "above", 2.0)) == "kl > 2"
    assert str(Alarm("entropy", "below", 0.5, relative=True, patience=3)) == "entropy < 0.5 x start for 3"
