"""Eight devices train by preferences as one device does: given lists, own answers, the baseline of KTO."""

import functools
from functools import partial
from typing import Any

import jax
import pytest

from rlhf_jax.learners import online, preference
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state
from tests.learners import tiny
from tests.parallel.test_agreement import EXECUTORS, furthest

STEPS = 2


@functools.cache
def trained(loss: str, executor: str) -> tuple[Any, Any]:
    """(parameters, metrics of each step)."""
    chosen = EXECUTORS[executor]()
    spec = preference.PreferenceSpec(tiny.decoder_spec(), loss="kto" if loss == "kto" else "dpo")
    optimizer = make_optimizer(tiny.OPTIMIZER)
    if loss == "kto":
        update, extra = partial(preference.update, spec, optimizer), {}
        batches = [tiny.preference_batch(seed, mismatched=True) for seed in range(STEPS)]
    else:
        # One list of two for every device.
        iterated = online.OnlineSpec(spec, samples=2, epochs=2, method=loss, reference_every=2)
        update, extra = (
            partial(online.update, iterated, optimizer, tiny.EOS),
            {"reference": tiny.decoder_params("float32", 0)},
        )
        batches = [tiny.fixed_rollout(seed) for seed in range(STEPS)]
    state = chosen.place(init_state(tiny.decoder_params("float32", 0), optimizer, jax.random.key(7), extra), "state")
    step = chosen.compile(update, ("state", "rows"), ("state", "replicated"))
    rows = []
    for batch in batches:
        state, metrics = step(state, chosen.place(batch, "rows"))
        rows.append(jax.device_get(metrics))
    return jax.device_get((state.params, state.extra)), rows


@pytest.mark.parametrize(
    ("loss", "executor"),
    [("kto", "pmap"), ("preference", "data2_fsdp2_tensor2"), pytest.param("expert", "pmap", marks=pytest.mark.slow)],
)
def test_eight_devices_are_one_device(loss: str, executor: str) -> None:
    one, many = trained(loss, "one"), trained(loss, executor)
    assert loss != "kto" or one[1][0]["baseline"] > 0.1
    assert furthest(one[0], many[0]) < 1e-4
    assert furthest(one[1], many[1]) < 1e-4
    assert furthest(one[0][0], tiny.decoder_params("float32", 0)) > 1e-3
