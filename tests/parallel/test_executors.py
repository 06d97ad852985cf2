"""Placement and compilation: what is split, what is copied, what a donated state leaves behind."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor, executors
from tests.learners import tiny


def test_a_mesh_must_use_every_device() -> None:
    wrong = r"^data 3 x fsdp 2 x sequence 1 x tensor 1 = 6, but the number of devices is 8$"
    with pytest.raises(ValueError, match=wrong):
        MeshExecutor(jax.devices(), data=3, fsdp=2)
    for fsdp in (3, 16):  # data takes what they leave
        wrong = rf"^fsdp {fsdp} x sequence 1 x tensor 1 = {fsdp} does not divide the number of devices, 8$"
        with pytest.raises(ValueError, match=wrong):
            MeshExecutor(jax.devices(), fsdp=fsdp)
    shape = MeshExecutor(jax.devices(), fsdp=2, tensor=2).mesh.shape
    assert shape == {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("executor", "rows_per_device", "row_shards"),
    [
        (lambda: PmapExecutor(jax.devices()), 1, 8),
        (lambda: MeshExecutor(jax.devices()), 1, 8),
        (lambda: MeshExecutor(jax.devices(), fsdp=4), 1, 8),
        (lambda: MeshExecutor(jax.devices(), fsdp=2, tensor=2), 2, 4),
        (lambda: MeshExecutor(jax.devices()[:1]), 8, 1),
    ],
)
def test_rows_are_split_over_data_and_fsdp(executor, rows_per_device: int, row_shards: int) -> None:
    chosen: Executor = executor()
    placed = chosen.place(tiny.token_batch(0), "rows")
    assert {shard.data.shape for shard in placed.ids.addressable_shards} == {(rows_per_device, tiny.LENGTH)}
    assert chosen.row_shards == row_shards
    np.testing.assert_array_equal(placed.ids, tiny.token_batch(0).ids)


@pytest.mark.parametrize("make", [PmapExecutor, MeshExecutor])
def test_kinds_go_in_and_come_out_whole(make) -> None:
    """x: rows, w: state, c: replicated. A pmapped function sees one row, a function on a mesh all of them."""
    executor: Executor = make(jax.devices())
    seen = []

    def function(x, w, c, axis_name):
        seen.append((x.shape, axis_name))
        total = jnp.sum(x)
        total = total if axis_name is None else jax.lax.psum(total, axis_name)
        return x * w + c, total

    compiled = executor.compile(function, ("rows", "state", "replicated"), ("rows", "replicated"))
    x = np.arange(16.0, dtype=np.float32).reshape(8, 2)
    out, total = compiled(executor.place(x, "rows"), executor.place(jnp.float32(3), "state"), jnp.float32(1))
    np.testing.assert_array_equal(out, 3 * x + 1)
    assert total == x.sum()
    assert seen[0] == (((1, 2), "data") if make is PmapExecutor else ((8, 2), None))


@pytest.mark.parametrize("devices", [1, 8])
def test_donating_a_state_spares_what_it_was_made_of(devices: int) -> None:
    """The parameters and the key that a state is made of live on: references, later evaluations and so on use them."""
    executor = MeshExecutor(jax.devices()[:devices])
    loss_sums, params, batches = tiny.sft_parts()
    key, optimizer = jax.random.key(3), make_optimizer(tiny.OPTIMIZER)
    state = executor.place(init_state(params, optimizer, key), "state")
    step = executor.compile(
        partial(train_step, loss_sums, optimizer), ("state", "rows"), ("state", "replicated"), donate=(0,)
    )
    new, _ = step(state, executor.place(batches[0], "rows"))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state)), "nothing was donated, so nothing was tested"
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, key)))
    assert np.isfinite(jax.random.normal(jax.random.fold_in(key, 1)))
    assert not np.array_equal(new.params["embedding"], params["embedding"])


def test_donation_changes_no_number() -> None:
    def run(donate: tuple[int, ...]) -> list:
        steps = list(tiny.steps("sft", MeshExecutor(jax.devices(), fsdp=2, tensor=2), donate=donate))
        return jax.device_get((steps[-1][0].params, [metrics for _, metrics in steps]))

    jax.tree.map(np.testing.assert_array_equal, run((0,)), run(()))


def test_programs_without_gradients_multiply_by_the_other_kernel(monkeypatch) -> None:
    """Where the compiler knows of it; another version of it, which does not, compiles as it always does."""
    executor = MeshExecutor(jax.devices()[:1])
    x, w = (executor.place(np.ones(shape, np.float32), "state") for shape in ((64, 256), (256, 256)))

    def packed(inference: bool) -> bool:
        compiled = executor.compile(
            lambda x, w, axis_name: (x @ w,), ("state", "state"), ("state",), inference=inference
        )
        np.testing.assert_array_equal(compiled(x, w)[0], np.full((64, 256), 256.0))
        return "ynn" in compiled.lower(x, w).compile().as_text()

    assert packed(False)
    assert not packed(True)
    monkeypatch.setattr(executors, "_INFERENCE", {"xla_cpu_no_such_option": ""})
    executors._knows_inference.cache_clear()
    assert packed(True)
    executors._knows_inference.cache_clear()
