"""Steps skipped on end, and losses that leap."""

import json
import math

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from rlhf_jax.diagnostics.guard import Guard, GuardSpec


def test_the_bound_is_so_many_robust_deviations_above_the_median() -> None:
    """By scipy, of the last losses alone; infinity until there are enough of them."""
    losses = np.random.default_rng(0).exponential(size=20)
    guard = Guard(GuardSpec(spike=4.0, window=7))
    for number, loss in enumerate(losses):
        if number < 7:
            assert guard.bound() == math.inf
        else:
            seen = losses[number - 7 : number]
            wanted = np.median(seen) + 4.0 * median_abs_deviation(seen, scale="normal")
            assert guard.bound() == pytest.approx(wanted, rel=1e-5)
        guard.made(float(loss))
    assert Guard(GuardSpec(window=1)).bound() == math.inf


def test_steps_on_end_are_counted_through_a_checkpoint() -> None:
    guard = Guard(GuardSpec(max_skipped=2))
    assert [guard.skipped(), guard.skipped()] == [False, False]
    resumed = Guard(GuardSpec(max_skipped=2))
    resumed.set_state(json.loads(json.dumps(guard.get_state())))
    assert resumed.skipped()
    resumed.made(1.0)
    assert resumed.in_a_row == 0
    assert Guard(GuardSpec(max_skipped=0)).skipped()


def test_a_rewind_takes_back_losses_but_no_batches() -> None:
    guard = Guard(GuardSpec(spike=1.0, window=2))
    for loss in (0.1, 0.7):
        guard.drawn += 1
        guard.made(loss)
    guard.saved()
    state = json.loads(json.dumps(guard.get_state()))
    bound = guard.bound()
    for loss in (0.3, 0.2):
        guard.drawn += 1
        guard.made(loss)
    guard.rewound(state)
    assert (guard.drawn, guard.kept, guard.rewinds, guard.bound()) == (4, 4, 1, bound)
    guard.saved()
    assert guard.rewinds == 0
