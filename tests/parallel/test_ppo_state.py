"""All that PPO may carry besides its networks, and what is mixed into its loss, on eight devices as on one."""

from functools import cache, partial
from typing import Any

import jax
import numpy as np
import pytest

from rlhf_jax.learners import ppo
from rlhf_jax.parallel import MeshExecutor, PmapExecutor
from tests.learners import tiny
from tests.learners.test_ppo_switches import EVERYTHING, extras, optimizer_of, rollout_of, start

EXECUTORS = {
    "one": lambda: MeshExecutor(jax.devices()[:1]),
    "pmap": lambda: PmapExecutor(jax.devices()),
    "data2_fsdp2_tensor2": lambda: MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2),
}


@cache
def trained(name: str) -> tuple[Any, list[Any]]:
    """Two iterations under running moments, an adaptive price, an exact divergence, a mix, and an early end."""
    executor = EXECUTORS[name]()
    update = executor.compile(
        partial(ppo.update, EVERYTHING, optimizer_of(EVERYTHING), tiny.EOS),
        ("state", "rows", "rows", "state"),
        ("state", "replicated"),
    )
    state, metrics = executor.place(start(EVERYTHING), "state"), []
    rows, reference = extras(EVERYTHING)
    for seed in range(2):
        rollout = executor.place(rollout_of(EVERYTHING, seed), "rows")
        state, found = update(state, rollout, executor.place(rows, "rows"), executor.place(reference, "state"))
        metrics.append(jax.device_get(found))
    return jax.device_get((state.params, state.extra)), metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pmap", "data2_fsdp2_tensor2"])
def test_eight_devices_are_one_device(name: str) -> None:
    one, many = trained("one"), trained(name)

    def distance(a: Any, b: Any) -> float:
        """Absolute, of numbers above 1 (sums of squares, for one) relative."""
        return float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / np.maximum(np.abs(np.asarray(a)), 1.0)))

    distances = jax.tree.map(distance, one, many)
    assert max(jax.tree.leaves(distances)) < 1e-4
    assert 0 < one[1][0]["updates"] <= 4
    assert float(one[0][1]["return_moments"].seen) > float(one[0][1]["score_moments"].seen) == 2 * tiny.EPISODES
