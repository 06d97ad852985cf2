"""Critiques of a model's own are the same on many devices as on one: each response has its own random stream."""

import functools
from functools import partial

import jax
import numpy as np
import pytest

from rlhf_jax.learners import critique
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor
from rlhf_jax.types import CritiqueBatch
from tests.learners import tiny

ROOM = 3
SPEC = critique.CritiqueSpec(
    decoder=tiny.decoder_spec(),
    bounded=False,
    utilities=tiny.reward_parts()[0].args[0].utilities,
    max_critique=ROOM,
    eos_id=tiny.EOS,
    pad_id=tiny.PAD,
    own=0.5,
    first_steps=1,
)


def batch() -> CritiqueBatch:
    lists = tiny.rank_batch(0)
    random = np.random.default_rng(1)
    ids = random.integers(2, tiny.VOCAB, (*lists.response_mask.shape, ROOM)).astype(np.int32)
    mask = np.repeat(lists.response_mask[..., None], ROOM, axis=2)
    return CritiqueBatch(lists=lists, ids=ids, mask=mask)


@functools.cache
def one_device() -> tuple[list[dict], critique.Judged]:
    return run(MeshExecutor(jax.devices()[:1]))


def run(executor: Executor) -> tuple[list[dict], critique.Judged]:
    """The metrics of three steps, the first on given critiques, and then a judgement by two samples."""
    optimizer = make_optimizer(tiny.OPTIMIZER)
    params = tiny.scored_params("float32", 1)
    state = executor.place(jax.jit(partial(init_state, optimizer=optimizer))(params, key=jax.random.key(7)), "state")
    step = executor.compile(partial(critique.update, SPEC, optimizer), ("state", "rows"), ("state", "replicated"))
    judge = executor.compile(
        lambda params, lists, key, axis_name: tuple(
            critique.judge(SPEC, params, lists, key, samples=2, axis_name=axis_name)
        ),
        ("state", "rows", "replicated"),
        ("rows", "rows"),
    )
    rows, found = executor.place(batch(), "rows"), []
    for _ in range(3):
        state, metrics = step(state, rows)
        found.append(jax.device_get(metrics))
    return found, critique.Judged(*jax.device_get(judge(state.params, rows.lists, jax.random.key(9))))


@pytest.mark.slow
@pytest.mark.parametrize("many", ["pmap", "mesh"])
def test_many_devices_are_one(many: str) -> None:
    devices = jax.devices()
    assert len(devices) == 8
    one_metrics, one = one_device()
    metrics, judged = run(PmapExecutor(devices) if many == "pmap" else MeshExecutor(devices, data=4, tensor=2))
    for mine, theirs in zip(one_metrics, metrics, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert np.array_equal(one.first.ids, judged.first.ids)
    np.testing.assert_allclose(one.rewards, judged.rewards, atol=1e-4)
